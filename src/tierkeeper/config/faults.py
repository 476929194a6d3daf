"""Pydantic's findings in our words: place, cause, remedy. Pure; an input's value is never repeated here."""

import difflib
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tierkeeper.config.model import Settings
from tierkeeper.kernel.errors import UsageError

Loc = tuple[str | int, ...]

MISSING: Final[Mapping[Loc, tuple[str, str]]] = MappingProxyType({
    ("tiers", "core", "url"): ("the address of the Core database is missing", "CORE_SUPABASE_URL=postgresql://user:password@host:5432/postgres"),
    ("tiers", "main", "url"): ("the address of the Main database is missing", "MAIN_SUPABASE_URL=postgresql://user:password@host:5432/postgres"),
    ("tiers", "archive", "catalog"): (
        "the address of the archive's catalog database is missing",
        "ARCHIVE_SUPABASE_URL=postgresql://user:password@host:5432/postgres",
    ),
    ("tiers", "archive", "store"): ("the archive's store is missing", "ARCHIVE_PATH=/path/to/archive"),
})  # fmt: skip
"""What must be configured, and the variable that says it."""

_PLAIN: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "string_type": ("this must be text", "Write it in quotes"),
        "string_too_short": ("this is empty", "Write a value, or take the key out"),
        "int_type": ("this must be a whole number", "Write a number without quotes"),
        "int_parsing": ("this is not a whole number", "Write a number, such as 3"),
        "int_from_float": ("this is not a whole number", "Write a number, such as 3"),
        "finite_number": ("this number has no end", "Write a number, such as 30"),
        "float_type": ("this must be a number", "Write a number, such as 30"),
        "float_parsing": ("this is not a number", "Write a number, such as 30"),
        "bool_type": ("this must be true or false", "Write true or false, without quotes"),
        "bool_parsing": ("this must be true or false", "Write true or false, without quotes"),
        "tuple_type": ("this must be a list", "Write it in brackets; a list of tables begins with [[…]]"),
        "model_type": ("this must be a table of keys", "Begin it with its name in brackets, such as [tiers.core]"),
        "too_short": ("this list is empty", "Name at least one"),
    }
)


def dotted(loc: Loc) -> str:
    """A place as the user finds it: ("tables", 0, "age") -> "tables[0].age"."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc).lstrip(".")


def translate(error: ValidationError, place: Callable[[Loc], str]) -> Iterator[tuple[Loc, UsageError]]:
    """Every fault of `error` with where it lies; `place` names a location for the user."""
    details = error.errors(include_url=False, include_input=False)
    for detail in details:
        loc: Loc = detail["loc"]
        if detail["type"] == "too_short" and any(other["loc"][: len(loc)] == loc != other["loc"] for other in details):
            continue  # what stands in the list is wrong, and told
        kind, context = detail["type"], detail.get("ctx", {})
        if kind == "tierkeeper":
            for key, cause, remedy in context["findings"]:
                at = (*loc, key) if key else loc
                yield at, UsageError(place(at), cause, remedy)
        elif kind == "missing":
            yield from ((at, UsageError(place(at), *_missing(at))) for at in _required(loc))
        else:
            yield loc, UsageError(place(loc), *_told(detail, loc, context))


def _told(detail: ErrorDetails, loc: Loc, context: Mapping[str, Any]) -> tuple[str, str]:
    kind = detail["type"]
    if kind == "extra_forbidden":
        known = [name for name, _ in _fields(_section(loc[:-1]))]
        close = difflib.get_close_matches(str(loc[-1]), known, 1)
        meant = f"Did you mean {close[0]}? " if close else ""
        return "this key is not known", f"{meant}Known here: {', '.join(known)}"
    if kind == "literal_error":
        return "this value is not known", f"Write one of {context['expected']}"
    for name, sense in (("ge", "at least"), ("gt", "more than"), ("le", "at most"), ("lt", "less than")):
        if name in context:
            return "this number is out of bounds", f"Write a number of {sense} {context[name]:g}"
    if kind == "too_long":
        return "this list is too long", f"Name at most {context['max_length']}"
    return _PLAIN.get(kind, (detail["msg"][:1].lower() + detail["msg"][1:], "Correct it"))


def _missing(loc: Loc) -> tuple[str, str]:
    if loc not in MISSING:
        return "this key is missing", "Write it, as docs/reference/configuration.md shows"
    cause, example = MISSING[loc]
    table = ".".join(str(part) for part in loc[:-1])
    return cause, f"Set {example} in the environment or in .env, or write {loc[-1]} under [{table}] in tierkeeper.toml"


def _required(loc: Loc) -> list[Loc]:
    """What is missing below a section that is missing as a whole."""
    return [at for at in MISSING if at[: len(loc)] == loc] or [loc]


def _section(loc: Loc) -> type[BaseModel]:
    """The model at `loc`."""
    model: type[BaseModel] = Settings
    for part in loc:
        if isinstance(part, str):
            model = dict(_fields(model))[part] or model
    return model


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel] | None]]:
    """The keys of `model` as the user writes them, each with its own model if it is a section."""
    for name, field in model.model_fields.items():
        candidates = (field.annotation, *get_args(field.annotation))
        inner = next((c for c in candidates if isinstance(c, type) and issubclass(c, BaseModel)), None)
        yield field.alias or name, inner
