"""Says of a tier that is too full after a run what fills it, what keeps it there, and what to do. It changes nothing."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.results import FaultResult, MoveResult, StaysFull
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import format_bytes
from tierkeeper.postgres.link import translated
from tierkeeper.quotas.look import largest_tables
from tierkeeper.tiers.space import WORTH_BYTES
from tierkeeper.tiers.tier import Tier

SHOWN: Final = 3  # tables of a kind
_STORE = "Give the store more room, or let archive = … under [[tables]] remove what is old"


@dataclass(frozen=True)
class Seen:
    """What a run saw of a tier: its last move of each table out of it, what had to wait, and bytes of deleted rows it keeps."""

    moves: Sequence[MoveResult]
    errors: Sequence[FaultResult]
    kept: Mapping[TableName, int]


def look(tier: Tier, used_bytes: int, leaving: Sequence[TablePolicy], follows: Sequence[TablePolicy], seen: Seen) -> StaysFull:
    """`leaving`: the policies whose rows may leave it, `follows` those whose rows go with theirs."""
    tables: Sequence[tuple[TableName, int]] = ()
    if tier.name != "archive":
        with translated(f"tiers.{tier.name}"), closing(tier.link.connect("usage")) as conn:
            tables = [(name, size) for name, size in largest_tables(conn) if size >= WORTH_BYTES]
    archive = [("nothing is deleted from it to make room", _STORE)]
    found = archive if tier.name == "archive" else list(why(tier.name, leaving, follows, tables, seen))
    share = used_bytes / tier.quota_bytes
    return StaysFull(
        tier=tier.name,
        used_bytes=used_bytes,
        quota_bytes=tier.quota_bytes,
        over_quota=share >= 1,
        cause=f"{tier.name} stays at {share:.0%} of its quota: " + "; ".join(cause for cause, _ in found),
        remedy=". ".join([*(remedy for _, remedy in found), f"Or raise quota under [tiers.{tier.name}]"]),
    )


def why(
    tier: str, leaving: Sequence[TablePolicy], follows: Sequence[TablePolicy], tables: Sequence[tuple[TableName, int]], seen: Seen
) -> Iterator[tuple[str, str]]:
    """Causes, each with its remedy. Pure."""
    last = {move.table: move for move in seen.moves if move.from_ == tier}
    waiting = [f"{m.rows_left:,} of {m.table} ({m.stopped_because})" for m in last.values() if m.rows_left and not _capped(m)]
    capped = [f"{m.rows_left:,} of {m.table}" for m in last.values() if m.rows_left and _capped(m)]
    staying = [(name, size) for name, size in tables if name not in {p.name for p in [*leaving, *follows]}]
    least = [str(p.name) for p in leaving if (p.core_min if tier == "core" else p.main_min) is not None]
    told = [
        ("had to wait: {}", [one.place for one in seen.errors], "Do what is told of what had to wait"),
        ("rows that may not leave yet: {}", waiting, "Run `tierkeeper quota` again later: `tierkeeper run` does"),
        ("one run takes a share of each table, and leaves to the next: {}", capped, "Run `tierkeeper quota` again"),
        (
            "space of deleted rows did not come back: {}",
            _sizes(list(seen.kept.items())),
            "Do what is told of space that did not come back",
        ),
        ("no policy lets rows leave {}", _sizes(staying), f"Give such tables {tier} = … under [[tables]]"),
        ("the least age keeps rows of {}", least, f"Lower {tier}_min under [[tables]]"),
    ]
    found = [(text.format(_named(names)), remedy) for text, names, remedy in told if names]
    largest = _named(_sizes(tables)) or "no table"
    yield from found or [(f"the largest there: {largest}", "Run `tierkeeper quota` again, or let its rows leave younger")]


def _capped(move: MoveResult) -> bool:
    return move.stopped_because == "row limit"


def _sizes(tables: Sequence[tuple[TableName, int]]) -> list[str]:
    return [f"{name} ({format_bytes(size)})" for name, size in tables if size]


def _named(names: Sequence[str]) -> str:
    """The first of them."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
