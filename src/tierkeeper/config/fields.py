"""The kinds of values that stand in `tierkeeper.toml`, and how text becomes one. Pure."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import PlainValidator

from tierkeeper.config.base import Finding, refuse
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age, parse_bytes, parse_share
from tierkeeper.monitoring.alerts.quiet import Quiet, read_zone
from tierkeeper.tiers import profile

_HIGHEST_PORT: Final = 65_535


def split_address(address: str) -> tuple[str, int] | None:
    """Host and port of "host:port" or "[::1]:port"; None if it is not that."""
    match = re.fullmatch(r"(?:tcp://)?(\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(\d{1,5})", address)
    if match is None or not 0 < int(match[2]) <= _HIGHEST_PORT:
        return None
    return match[1].strip("[]"), int(match[2])


def read_by(parse: Callable[[str, str], Any]) -> PlainValidator:
    """A validator from one of the kernel's readers of text."""

    def read(value: object) -> object:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise refuse(Finding("", "this must be text", "Write it in quotes"))
        try:
            return parse(str(value), "")
        except UsageError as error:
            raise refuse(Finding("", error.cause, error.remedy)) from None

    return PlainValidator(read)


Size = Annotated[int, read_by(parse_bytes)]
Share = Annotated[float, read_by(parse_share)]
Span = Annotated[Age, read_by(Age.parse)]
Table = Annotated[TableName, read_by(TableName.parse)]
QuietHours = Annotated[Quiet, read_by(Quiet.parse)]
ZoneName = Annotated[str, read_by(lambda text, place: read_zone(text, place).key)]
ProfileName = Annotated[str, read_by(lambda text, place: profile.named(text, place).name)]
Algorithm = Literal["round_robin", "weighted", "least_request", "random_two", "consistent_hash", "adaptive"]
Protocol = Literal["http", "tcp", "postgres"]


def only_once(names: Sequence[str], key: str) -> None:
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise refuse(*(Finding("", f"{key} {name} stands here more than once", "Take all but one out") for name in twice))
