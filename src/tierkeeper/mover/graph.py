"""Which rows hang together by foreign keys, and which of those may leave. Pure: what rows there are it is told when it asks.

A row leaves only with every row that refers to it and every row that it refers to, and theirs. One that must stay keeps all
that hang on it.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

Row = tuple[int, str]
"""A table's number, and a row's place in it."""
Look = Callable[[Collection[Row]], Mapping[Row, str | None]]
"""For each of the rows why it must stay, None if it may leave."""
Neighbours = Callable[[Collection[Row]], Iterable[tuple[Row, Row]]]
"""Every pair of rows of which one refers to the other, and one is among those given."""

LATER: Final = "not looked at to the end"


@dataclass
class Found:
    """`goes`: whole components that may leave, in the order of their first seed. `stays`: how many do not, by reason;
    one that is not followed to its end may be counted in parts.
    """

    goes: list[list[Row]] = field(default_factory=list)
    stays: Counter[str] = field(default_factory=Counter)


class _Components:
    """Union-find over rows; a component knows its size and why it stays, if it does."""

    def __init__(self) -> None:
        self._up: dict[Row, Row] = {}
        self._size: dict[Row, int] = {}
        self._why: dict[Row, str] = {}

    def __contains__(self, row: Row) -> bool:
        return row in self._up

    def __len__(self) -> int:
        return len(self._up)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._up)

    def add(self, row: Row) -> None:
        self._up[row] = row
        self._size[row] = 1

    def root(self, row: Row) -> Row:
        while self._up[row] != row:
            self._up[row] = row = self._up[self._up[row]]
        return row

    def join(self, one: Row, other: Row, most_rows: int) -> None:
        small, large = sorted((self.root(one), self.root(other)), key=self._size.__getitem__)
        if small == large:
            return
        self._up[small] = large
        self._size[large] += self._size.pop(small)
        why = self._why.pop(small, None)
        if why is not None:
            self._why.setdefault(large, why)
        if self._size[large] > most_rows:
            self._why.setdefault(large, f"more than {most_rows} rows hang together")

    def keep(self, row: Row, why: str) -> None:
        self._why.setdefault(self.root(row), why)

    def why(self, row: Row) -> str | None:
        return self._why.get(self.root(row))


def explore(seeds: Sequence[Row], look: Look, neighbours: Neighbours, *, most_rows: int, most_seen: int) -> Found:
    """The components of `seeds`, each followed until it is whole or must stay.

    A component of more than `most_rows` stays. After `most_seen` rows (more than `most_rows`) it looks no further: what is not
    whole then stays with the reason LATER, and fewer seeds would bring it to its end. One seed always comes to its end.
    """
    parts = _Components()
    fresh: list[Row] = list(dict.fromkeys(seeds))
    for seed in fresh:
        parts.add(seed)
    while fresh:
        for row, why in look(fresh).items():
            if why is not None:
                parts.keep(row, why)
        found: dict[Row, None] = {}
        for one, other in neighbours([row for row in fresh if parts.why(row) is None]):
            for row in (one, other):
                if row not in parts:
                    parts.add(row)
                    found[row] = None
            parts.join(one, other, most_rows)
        fresh = [row for row in found if parts.why(row) is None]
        if len(parts) > most_seen:
            for row in fresh:
                parts.keep(row, LATER)
            break
    return _told(seeds, parts)


def _told(seeds: Sequence[Row], parts: _Components) -> Found:
    result, members = Found(), dict[Row, list[Row]]()
    for seed in seeds:
        root = parts.root(seed)
        if root in members:
            continue
        members[root] = []
        why = parts.why(seed)
        if why is None:
            result.goes.append(members[root])
        else:
            result.stays[why] += 1
    for row in parts:
        members[parts.root(row)].append(row)
    return result


def take(components: Sequence[Sequence[Row]], most: int | None) -> tuple[list[Row], bool]:
    """The rows of the first components, together no more than `most`; False where some did not fit."""
    taken: list[Row] = []
    whole = True
    for component in components:
        if most is not None and len(taken) + len(component) > most:
            whole = False
            continue
        taken += component
    return taken, whole
