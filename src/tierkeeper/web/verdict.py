"""What the page says first: whether anything was lost, and by what that is known. Pure: a board in, words out.

It never says that all is well while a tier is away, a figure is old, or a count was taken before rows moved again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from tierkeeper.kernel.results import BoardProof, BoardResult
from tierkeeper.kernel.units import format_bytes

Level = Literal["good", "warn", "bad"]

_DAMAGE: Final = "damage found"  # the kind of the alert


@dataclass(frozen=True)
class Verdict:
    """A headline, and the evidence, line by line, each with its own level."""

    level: Level
    headline: str
    evidence: tuple[tuple[Level, str], ...]


@dataclass(frozen=True)
class Need:
    """Something that wants a person."""

    level: Level
    place: str
    cause: str
    remedy: str


def judge(board: BoardResult) -> Verdict:
    """What can be said of the rows."""
    evidence = tuple(_evidence(board))
    away = [name.capitalize() for name, tier in board.tiers.items() if tier.read_only is None]
    proof, levels = board.proof, {level for level, _ in evidence}
    cases: tuple[tuple[bool, Level, str], ...] = (  # the first that holds
        (proof is not None and proof.lost + proof.doubled > 0, "bad", _found(proof)),
        (not board.tiers, "warn", "Nothing is known yet: the tiers were not seen"),
        (bool(away), "warn", f"{_and(away)} cannot be seen now: nothing can be said of all rows"),
        (board.old, "warn", "These figures are old: the tiers have not answered since"),
        ("bad" in levels, "bad", "Something was found wrong"),
        (proof is None, "warn" if "warn" in levels else "good", "No row is known to be lost"),
        (proof is not None and not proof.current, "warn", f"{_found(proof)} at the last count, which is old"),
        (True, "good", _found(proof)),
    )
    level, headline = next((level, text) for holds, level, text in cases if holds)
    return Verdict(level, headline, evidence)


def needs(board: BoardResult) -> list[Need]:
    """All that wants a person, the gravest first."""
    found = [
        Need("bad" if not t.healthy else "warn", name, t.cause or "it does not answer", t.remedy or "")
        for name, t in board.tiers.items()
        if t.cause is not None or not t.healthy
    ]
    found += [Need("bad", name, t.cause, t.remedy or "") for name, t in board.tables.items() if t.cause is not None]
    found += [
        Need("warn", name, f"{t.conflicts} keys are in Core and in Main; Core's rows count", "`tierkeeper status` lists them")
        for name, t in board.tables.items()
        if t.conflicts
    ]
    found += [Need("warn" if a.severity == "warning" else "bad", a.subject, a.what, a.remedy) for a in board.alerts]
    found += [
        Need("warn", f"job {name}", j.cause, "The log of `tierkeeper run` says more") for name, j in board.jobs.items() if j.cause
    ]
    found += [Need("warn", target, f"it did not get the last alert: {cause}", "") for target, cause in board.undelivered.items()]
    found += [Need("warn" if e.not_now else "bad", e.place, e.cause, e.remedy) for e in board.errors]
    return sorted(dict.fromkeys(found), key=lambda n: n.level != "bad")


def _evidence(board: BoardResult) -> Iterator[tuple[Level, str]]:
    if board.proof is not None:
        yield _counted(board.proof)
    moves = board.moves or []
    verified = [m for m in moves if m.state == "verified"]
    rows = sum(m.rows or 0 for m in verified)
    if verified:
        last = _count(len(verified), "move")
        yield "good", f"The last {last} took {rows:,} rows; each row was read back and compared before it was deleted"
    failed = [m for m in moves if m.state == "failed"]
    if failed:
        yield (
            "warn",
            f"{len(failed)} of the last {_count(len(moves), 'move')} failed; whatever it left is settled by the next",
        )
    waits = sum(t.in_flight or 0 for t in board.tables.values())
    if waits:
        yield (
            "warn",
            f"{_count(waits, 'batch', 'batches')} under way or cut off: the rows count once, and the next run settles them",
        )
    refused = [name for name, table in board.tables.items() if table.cause is not None]
    if refused:
        yield "warn", f"{_and(refused)} cannot be asked for: see below"
    if board.errors or board.moves is None:
        yield "warn", "Not everything could be looked at: what follows and what stands above may not be all"
    yield from _archive(board)


def _counted(proof: BoardProof) -> tuple[Level, str]:
    how = f"{proof.rows:,} rows counted at {proof.counted_at:%H:%M:%S} UTC in all tiers, by code that uses no part of the mover"
    if proof.lost or proof.doubled:
        return "bad", how
    if proof.current:
        return "good", how
    since = "rows have moved since, and are being counted" if proof.error is None else f"not counted since: {proof.error.cause}"
    return "warn", f"{how}; {since}"


def _archive(board: BoardResult) -> Iterator[tuple[Level, str]]:
    reading = board.archive
    if reading is None:
        yield "warn", "The archive's catalog cannot be read now"
        return
    damage = [alert for alert in board.alerts if alert.kind == _DAMAGE]
    if damage:
        yield "bad", f"Archive: damage was found ({_count(len(damage), 'place')}): see below"
    elif reading.segments and reading.unread == reading.segments:
        yield "good", f"Archive: {_count(reading.segments, 'segment')}, read back when written and not since"
    elif reading.segments:
        never = f"; {reading.unread} only when written" if reading.unread else ""
        oldest = f", the longest ago at {reading.oldest_read_at:%Y-%m-%d %H:%M} UTC" if reading.oldest_read_at else ""
        yield "good", f"Archive: {_count(reading.segments, 'segment')}, each read back whole{oldest}{never}"
    drill = reading.drill
    if drill is not None:
        told = f"{drill.restored} of {_count(drill.segments, 'segment')} restored with the recovery key alone"
        yield ("good" if drill.ok else "bad"), f"Last drill at {drill.at:%Y-%m-%d %H:%M} UTC: {told}"
    stored = board.tiers["archive"].used_bytes if "archive" in board.tiers else None
    if reading.segments and stored is not None:
        yield "good", f"The store holds {format_bytes(stored)} of ciphertext; the keys are not there"


def _count(number: int, word: str, words: str | None = None) -> str:
    return f"{number:,} {word if number == 1 else words or word + 's'}"


def _found(proof: BoardProof | None) -> str:
    return "" if proof is None else f"{_count(proof.lost, 'row')} lost, {_count(proof.doubled, 'row')} doubled"


def _and(names: list[str]) -> str:
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
