"""Takes every value out of a statement's text, so that it may be shown. Pure.

pg_stat_statements does so itself for most, but not for utility statements (a password in ALTER ROLE), and not always.
"""

import re
from collections.abc import Iterator
from typing import Final

_SHOWN: Final = frozenset(("select", "insert", "update", "delete", "with", "merge", "values", "table"))
"""How statements begin that are shown; of others only their first two words are, if they are words that SQL knows."""
_WORDS: Final = re.compile(
    r"(alter|analyze|begin|call|checkpoint|close|cluster|comment|commit|copy|create|deallocate|declare|discard|do|drop|end|execute"
    r"|explain|fetch|grant|import|listen|load|lock|move|notify|prepare|reassign|refresh|reindex|release|reset|revoke|rollback"
    r"|savepoint|security|set|show|start|truncate|unlisten|vacuum|aggregate|collation|database|domain|event|extension|foreign"
    r"|function|index|language|materialized|or|policy|procedure|publication|role|routine|rule|schema|sequence|server|session"
    r"|statistics|subscription|system|table|tablespace|transaction|trigger|type|unique|user|view|local|full|concurrently|temp"
    r"|temporary|unlogged)",
    re.IGNORECASE,
)
_BEGINNING: Final = 80  # characters in which a statement has said what it is
_TOKEN: Final = re.compile(
    r"""
    (?P<gone>\s+|--[^\r\n]*)
  | (?P<comment>/\*)
  | (?P<escaped>[eE]'(?:[^'\\]|\\.|'')*')
  | (?P<string>(?:[uU]&|[bBxXnN])?'(?:[^']|'')*')
  | (?P<name>(?:[uU]&)?"(?:[^"]|"")*")
  | \$(?P<tag>[^\W\d]\w*|)\$
  | (?P<parameter>\$\d+)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<number>\.?\d[\w.]*(?:(?<=[eE])[+-]\d+)?)
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)


def normal(text: str, longest: int) -> str:
    """`text` on one line, with ? for each value, at most `longest` characters. What cannot be told apart for sure is left out."""
    shown = re.sub(r" +", " ", "".join(_pieces(text))).strip()
    words = re.findall(r"[A-Za-z]+", shown[:_BEGINNING])[:2]
    if not words or words[0].lower() not in _SHOWN:
        return " ".join([*(w.upper() for w in words if _WORDS.fullmatch(w)), "…"])
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def _pieces(text: str) -> Iterator[str]:
    """The tokens of `text`; each value is a question mark, and a comment nothing."""
    at = 0
    while at < len(text) and (match := _TOKEN.match(text, at)) is not None:
        kind, found, at = match.lastgroup, match[0], match.end()
        if kind == "comment":
            at = _after_comment(text, at)
        elif kind == "tag":
            end = text.find(found, at)
            at = len(text) if end < 0 else end + len(found)
        if (kind == "string" and "\\" in found) or (kind == "other" and found in "'\""):
            # Whether a backslash escapes what follows is the session's choice, and an open quote has no end: where this value
            # ends nobody knows.
            yield "? …"
            return
        yield " " if kind in ("gone", "comment") else "?" if kind in ("string", "escaped", "number", "tag") else found


def _after_comment(text: str, at: int) -> int:
    """Where the comment ends that began before `at`; comments nest."""
    depth = 1
    while depth:
        edge = re.compile(r"/\*|\*/").search(text, at)
        if edge is None:
            return len(text)
        depth, at = depth + (1 if edge[0] == "/*" else -1), edge.end()
    return at
