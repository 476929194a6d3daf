"""The user's `tierkeeper.toml` in an artifact: what it names goes with it, and what is secret stays out."""

import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from tierkeeper.config import Settings
from tierkeeper.config.faults import dotted, translate
from tierkeeper.config.read import ENVIRONMENT, read_variables
from tierkeeper.kernel.errors import Faults, UsageError

FILE: Final = "tierkeeper.toml"
ADDRESSES: Final = ("url", "catalog", "store")  # secret only where a password or the like stands in them
SECRETS: Final = ("token", "notify")  # secret as a whole
_AUTHORITIES: Final = ("sslrootcert", "backend_ca")
_INSIDE: Final = re.compile(
    r"://[^/\s@:]*:[^\s@]+@"  # a password in an address, escaped or not
    r"|(?:^|[?&;\s])(?:\w*password|\w*token|\w*secret\w*|\w*signature|sig|api_?key)\s*=\s*[^&\s]",
    re.I,
)
_NAMED: Final = re.compile(r"=\s*(\"env:|'env:|env:)")
_SYSTEM: Final = "system"

Loc = tuple[str | int, ...]


def check_variables(config: Path, environ: Mapping[str, str]) -> None:
    """Raises Faults for a quota or a setting of the balancer that no function could read, UsageError for a broken `.env`.

    Only those go along from `environ` and from the `.env` beside `config`.
    """
    variables = read_variables(config.parent, environ)
    given = {loc: name for name, loc in ENVIRONMENT.items() if name in variables and (loc[-1] == "quota" or loc[0] == "balance")}
    data: dict[str, Any] = {}
    for loc, name in given.items():
        section = data
        for part in loc[:-1]:
            section = section.setdefault(str(part), {})
        section[str(loc[-1])] = variables[name]
    if faults := [*_unreadable(data, lambda loc: given.get(loc, dotted(loc)))]:
        raise Faults(faults)


def files(config: Path) -> dict[str, bytes]:
    """The configuration and the certificates that it names, by their names in the artifact; nothing where there is none.

    Raises Faults for each secret that stands in it, for a file that cannot come along, and for what no function could read.
    """
    if not config.exists():
        return {}
    try:
        written = tomllib.loads(config.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise UsageError(config.name, f"it cannot be read ({error})", "Correct it; `tierkeeper check` says more") from None
    found = {FILE: config.read_bytes()}
    faults = [
        *_remarked(config.name, found[FILE].decode()),
        *_unreadable(written, lambda loc: f"{config.name}: {dotted(loc)}"),
    ]
    for loc, text in _texts(written, ()):
        place = f"{config.name}: {dotted(loc)}"
        if text.startswith("env:"):
            continue
        if any(part in SECRETS for part in loc) or _INSIDE.search(text):
            cause = "a secret stands here in plain text, and whoever may read the function's code could read it"
            faults.append(UsageError(place, cause, "Write env:NAME here, and set NAME as docs/howto/run-on-lambda.md says"))
        elif loc[-1] in _AUTHORITIES and text not in ("", _SYSTEM):
            file = config.parent / text
            if Path(text).is_absolute() or ".." in Path(text).parts or not file.is_file():
                cause = "the function would have no such file"
                faults.append(UsageError(place, cause, f"Lay it beside {config.name}, or below, and name it from there"))
            else:
                found[Path(text).as_posix()] = file.read_bytes()
    if faults:
        raise Faults(faults)
    return found


def _remarked(name: str, text: str) -> Iterator[UsageError]:
    """Secrets in comments, which go along as they are."""
    for number, line in enumerate(text.splitlines(), 1):
        remark = line.partition("#")[2]
        if remark and _INSIDE.search(_NAMED.sub("", remark)):
            cause = "a secret stands in the comment, and whoever may read the function's code could read it"
            yield UsageError(f"{name}: line {number}", cause, "Take it out of the comment")


def _unreadable(written: dict[str, Any], place: Callable[[Loc], str]) -> Iterator[UsageError]:
    """What is wrong whatever the variables say that it refers to, which are elsewhere: an unknown key, a value that is none."""
    try:
        Settings.model_validate(written)
    except ValidationError as error:
        certain = {e["loc"] for e in error.errors() if _is_certain(e["type"], e["input"])}
        for loc, fault in translate(error, place):
            if loc in certain:
                yield fault


def _is_certain(kind: str, given: object) -> bool:
    if kind == "extra_forbidden":
        return True
    return kind != "missing" and isinstance(given, str | int | float) and not str(given).startswith("env:")


def _texts(value: object, loc: Loc) -> Iterator[tuple[Loc, str]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _texts(inner, (*loc, key))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _texts(inner, (*loc, number))
    elif isinstance(value, str):
        yield loc, value
