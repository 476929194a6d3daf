"""Keys that are used again, as an executable model: one key, an application in Core, a mover, thaws, a mirror, a run, a reader.

Every interleaving of a small world is checked for one thing: a reader that sees the key in Core counts it there alone. A step is
one committed transaction or one snapshot; transactions are numbered, and one may have begun long before it commits.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Run:
    """A run that looks for conflicts, as far as it has come: what it saw in Core, and what it then found at Main."""

    core: int | None
    since: int
    horizon: tuple[int, int] | None
    stage: str = "seen"
    found: bool = False
    ripe: bool = True
    thaws: int = 0


@dataclass(frozen=True)
class Reader:
    """What a reader's snapshot of Core has: the row's transaction, the horizon, which rows were handed over to Main."""

    core: int | None
    horizon: tuple[int, int] | None
    handed: frozenset[int]


@dataclass(frozen=True)
class World:
    """`core` is the transaction that wrote Core's row; `main` is the ledger's word and which row of Core's it was (0: none)."""

    left: int
    next: int = 1
    running: int | None = None
    core: int | None = None
    handed: frozenset[int] = frozenset()
    main: tuple[str, int] | None = ("forgotten", 0)
    archived: bool = False
    thaws: int = 0  # what came to Main by no move: a thaw, a mirror's rows
    mirrors_left: int = 0
    noted: bool = False
    compared: frozenset[tuple[int, int]] = frozenset()
    horizon: tuple[int, int] | None = None  # id, since
    ids: int = 0
    run: Run | None = None
    runs_left: int = 2
    reader: Reader | None = None
    wrong: bool = False


Steps = Iterator[tuple[str, World]]


def steps(w: World, fault: str) -> Steps:
    yield from application(w)
    yield from movers(w, fault)
    yield from looking(w, fault)
    yield from reading(w, fault)


def application(w: World) -> Steps:
    if w.running is None and w.core is None and w.left:
        yield "app: begins to insert", replace(w, running=w.next, next=w.next + 1, left=w.left - 1)
    if w.running is not None:
        yield "app: commits", replace(w, core=w.running, running=None)
    if w.core is not None:
        yield "app: deletes in Core", replace(w, core=None)
    if w.main is not None and w.main[0] == "forgotten":
        yield "app: deletes at Main", replace(w, main=None)


def movers(w: World, fault: str) -> Steps:
    if w.core is not None and w.main is None:
        yield "mover: copies to Main", replace(w, main=("copied", w.core))
    if w.main is not None and w.main[0] == "copied":
        if w.core == w.main[1]:
            yield "mover: deletes in Core", replace(w, core=None, handed=w.handed | {w.core})
        if w.main[1] in w.handed:
            yield "mover: done", replace(w, main=("forgotten", w.main[1]))
        else:
            yield "mover: undone", replace(w, main=None)
    if w.main is not None and w.main[0] == "forgotten" and not w.archived and w.thaws == 0 and w.reader is None:
        yield "archive: takes Main's row", replace(w, main=None, archived=True)
    if w.archived and w.main is None:
        yield "archive: thaws", replace(w, main=("forgotten", 0), archived=False, thaws=w.thaws + 1)
    if w.mirrors_left and w.main is None:  # what Core had at some time
        come = w.thaws + (fault != "a mirror leaves the horizon")
        yield "mirror: brings the key", replace(w, main=("forgotten", 0), thaws=come, mirrors_left=w.mirrors_left - 1)
    if w.noted and w.reader is None and (w.core is None or w.main is None):
        yield "mover: drops a conflict that has ended", replace(w, noted=False)


def looking(w: World, fault: str) -> Steps:
    run = w.run
    if run is None:
        if w.runs_left:
            oldest = w.running if w.running is not None and fault != "since the next transaction" else w.next
            yield "run: looks into Core", replace(w, run=Run(w.core, oldest, w.horizon), runs_left=w.runs_left - 1)
        return
    yield "run: is killed", replace(w, run=None)
    if run.stage == "seen":
        holds = run.horizon is not None and holding(run.horizon, w, fault)
        asked = run.core is not None and not (holds and run.horizon is not None and run.core < run.horizon[1])
        there = asked and w.main is not None
        in_flight = there and w.main is not None and w.main[0] == "copied"
        ripe = not in_flight or fault == "a horizon beside a copy in flight"
        looked = replace(run, stage="asked", found=there and not in_flight, ripe=ripe, thaws=w.thaws)
        yield "run: asks Main", replace(w, run=looked)
    if run.stage == "asked":
        first = fault == "a horizon before its notes"
        noted = w.noted or (run.found and not first)
        made = replace(w, noted=noted, ids=w.ids + 1, compared=w.compared | {(w.ids + 1, run.thaws)})
        yield "run: notes", replace(made, run=replace(run, stage="noted")) if run.ripe else replace(w, noted=noted, run=None)
    if run.stage == "noted":
        last = replace(run, stage="late") if fault == "a horizon before its notes" else None
        yield "run: records", replace(w, horizon=(w.ids, run.since), run=last)
    if run.stage == "late":
        yield "run: notes at last", replace(w, noted=w.noted or run.found, run=None)


def holding(horizon: tuple[int, int], w: World, fault: str) -> bool:
    """Whether Main knows the horizon, and has had nothing from the archive since."""
    return any(i == horizon[0] and (thaws == w.thaws or fault == "a thaw leaves the horizon") for i, thaws in w.compared)


def reading(w: World, fault: str) -> Steps:
    if w.reader is None:
        yield "reader: sees Core", replace(w, reader=Reader(w.core, w.horizon, w.handed))
        return
    r, horizon = w.reader, w.horizon if fault == "the newest horizon" else w.reader.horizon
    main = w.main is not None and (w.main[1] == 0 or w.main[1] in r.handed)
    old = horizon is not None and holding(horizon, w, fault) and r.core is not None and r.core < horizon[1]
    both = r.core is not None and main and not w.noted and old
    yield "reader: sees Main", replace(w, reader=None, wrong=both)


FAULTS = (
    "since the next transaction",
    "a horizon beside a copy in flight",
    "a horizon before its notes",
    "a thaw leaves the horizon",
    "a mirror leaves the horizon",
    "the newest horizon",
)


def explore(inserts: int, fault: str = "", *, mirrors: int = 0) -> tuple[int, list[str]]:
    """All states that can be reached: how many, and the shortest way to a reader that counts the key twice, if there is one."""
    start = World(inserts, mirrors_left=mirrors)
    seen = {start}
    todo: deque[tuple[World, tuple[object, str] | None]] = deque([(start, None)])
    while todo:
        w, path = todo.popleft()
        if w.wrong:
            trace: list[str] = []
            while path is not None:
                path, step = path  # type: ignore[assignment]
                trace.append(step)  # type: ignore[arg-type]
            return len(seen), trace[::-1]
        for step, after in steps(w, fault):
            if after not in seen:
                seen.add(after)
                todo.append((after, (path, step)))
    return len(seen), []
