"""Reads a page as somebody without a script does: its text, its tags, its attributes."""

from collections import Counter
from html.parser import HTMLParser


class Seen(HTMLParser):
    """What is in a page; styles and scripts are no text of it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self._counts: Counter[str] = Counter()
        self.attributes: set[str] = set()
        self.text = ""
        self.title = ""
        self._within = ""
        self.feed(page)

    @property
    def tags(self) -> set[str]:
        return set(self._counts)

    def count(self, tag: str) -> int:
        return self._counts[tag]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._counts[tag] += 1
        self.attributes |= {name for name, _ in attrs}
        self._within = tag

    def handle_endtag(self, tag: str) -> None:
        del tag
        self._within = ""

    def handle_data(self, data: str) -> None:
        if self._within == "title":
            self.title += data
        elif self._within not in ("style", "script"):
            self.text += data
