"""Which change of a column's type keeps every value as it is: what Main may follow, and what an older segment may be read as.

Pure. A change that is not listed may lose or change something, and is somebody's decision.
"""

import re
from dataclasses import dataclass
from typing import Final, Literal

from tierkeeper.kernel.tables import Column

Conversion = Literal["same", "number", "digits", "pad", "strip"]

_LADDERS: Final = (("int2", "int4", "int8"), ("float4", "float8"))
_PRECISE: Final = frozenset({"timestamp", "timestamptz", "time", "timetz", "varbit"})
_MODIFIER: Final = re.compile(r"\((\d+)(?:,(\d+))?\)")


@dataclass(frozen=True)
class Widening:
    """A change that loses nothing.

    `conversion` is what it does to a value's text form: nothing ("same"), another number type ("number"), more decimals
    ("digits"), blanks added ("pad") or taken off ("strip") at the end. `length` is the new one's decimals or characters.
    """

    conversion: Conversion
    length: int = 0


def widening(old: Column, new: Column) -> Widening | None:
    """How values of `old` become `new`'s with nothing lost, as Postgres itself casts them; None if that is not so."""
    if old.type == new.type:
        return Widening("same")
    if old.kind != "b" or new.kind != "b" or old.element is not None or new.element is not None:
        return None
    if any(old.base in ladder and new.base in ladder[ladder.index(old.base) :] for ladder in _LADDERS):
        return Widening("number")
    if old.base == new.base == "numeric":
        return _numeric(_modifiers(old), _modifiers(new))
    return _longer(old, new)


def _longer(old: Column, new: Column) -> Widening | None:
    (length, *_), (other, *_) = _modifiers(old) or (None,), _modifiers(new) or (None,)
    if other is not None and (length is None or other < length):
        return None
    if old.base == "bpchar" and length is not None:
        if new.base == "bpchar" and other is not None:
            return Widening("pad", other)
        return Widening("strip") if new.base in ("varchar", "text") else None
    texts = {old.base, new.base} <= {"varchar", "text"}
    return Widening("same") if texts or (old.base == new.base and old.base in _PRECISE) else None


def _numeric(old: tuple[int, ...] | None, new: tuple[int, ...] | None) -> Widening | None:
    if new is None:
        return Widening("same")
    if old is None or new[1] < old[1] or new[0] - new[1] < old[0] - old[1]:
        return None
    return Widening("same") if new[1] == old[1] else Widening("digits", new[1])


def _modifiers(column: Column) -> tuple[int, ...] | None:
    """The numbers in brackets of the type's name; None where it has none and holds whatever fits the type."""
    if (found := _MODIFIER.search(column.type)) is None:
        return None
    return tuple(int(n) for n in found.groups("0"))
