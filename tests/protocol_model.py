"""The move protocol in both directions as an executable model: every interleaving of a small world, checked.

One row, three tiers (0 Core, 1 Main, 2 Archive), an application that writes the row where it lies, movers that may be paused
for any time or killed, a recovery that may run at any time, a reader through either door. A step is one committed transaction or
one snapshot. A world is the hops that its batches take and the tier that the row starts in. `tests/unit/mover/test_protocol.py`
explores the worlds; each planted fault must break an invariant.

A reader `alone` has no entry for the table: it takes Core's rows for all there are where Core's snapshot has no word of a run,
else only where no copy is on its way up and no row lies below. So that word must be in each snapshot of Core that has lost a
row; `Game.word` says when it is given.

Two rows decide a batch, each changed only by compare-and-set: the marker at its source (open -> moved | aborted) and the ledger
row at its destination (open -> copied -> done -> forgotten, or -> undone).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

CORE, MAIN, ARCHIVE = range(3)
DOORS = {"fast": (CORE, MAIN, ARCHIVE), "front": (MAIN, CORE, ARCHIVE), "alone": (CORE, MAIN, ARCHIVE)}
DOWN, UP, AWAY = (CORE, MAIN), (MAIN, CORE), (MAIN, ARCHIVE)
OVER = ("undone", "done", "forgotten")
WITH_MARKER, FIRST, BESIDE, SAID_AGAIN, WITH_DELETE = (
    "in the marker's transaction",
    "before the run's first step",
    "beside the copies, waited for by the run's own deletes",
    "the same, and by a recovery before it goes on with a copy",
    "in the delete's transaction",
)


@dataclass(frozen=True)
class Game:
    """A world to explore: one batch for each of `hops`, the tier that the row starts in, and the bug that is planted.

    Where it is `forgetful`, the first batch's source may lose its markers, and a recovery may pause after it saw none of it.
    `word`: when Core is told that a run looks at the table. Where there are `older` programs, one of them may go on with a copy
    that it finds: it knows of no word but its own run's first.
    """

    hops: tuple[tuple[int, int], ...]
    start: int
    fault: str = ""
    app_writes: int = 1
    forgetful: bool = False
    doors: tuple[str, ...] = ("fast", "front")
    word: str = WITH_MARKER
    older: bool = False


@dataclass(frozen=True)
class Reader:
    """A reader in flight: what its snapshots saw, every value the row truly had meanwhile, and the ledger when it began."""

    door: str
    began: tuple[Any, ...]
    seen: tuple[int, ...]
    rows: tuple[Any, ...]
    batch: tuple[Any, ...]
    markers: tuple[Any, ...]
    ledger: tuple[Any, ...]
    truths: tuple[Any, ...]
    lost: bool = False  # the first batch's source said that it is another one than the rows came from
    told: bool = True  # Core said that a run has looked at the table


@dataclass(frozen=True)
class World:
    """The row's versions by tier (None: absent), the batch that brought each (None: written there), and each batch's state."""

    truth: int | None
    rows: tuple[Any, ...]
    batch: tuple[Any, ...]
    markers: tuple[Any, ...]  # None open moved aborted dropped
    ledger: tuple[Any, ...]  # None open copied undone done forgotten
    mover: tuple[str, ...]  # idle intent open read copied resumed taken-over deleted dead end
    read: tuple[Any, ...]  # (version, batch) that the mover's S1 saw
    app_left: int
    reader: Reader | None = None
    readers_left: int = 1
    lost: bool = False
    saw_none: bool = False  # a paused recovery's last look at the first batch's marker
    word: bool = False  # Core's, where a reader asks for it


Steps = Iterator[tuple[str, World]]


def put(t: tuple[Any, ...], i: int, v: object) -> tuple[Any, ...]:
    return (*t[:i], v, *t[i + 1 :])


def steps(w: World, g: Game) -> Steps:
    yield from application(w, g)
    for b in range(len(g.hops)):
        yield from mover(w, b, g)
        yield from recovery(w, b, g)
        yield from clearing(w, b, g)
    if g.forgetful:
        yield from forgetting(w, g)
    yield from reading(w, g)


def forgetting(w: World, g: Game) -> Steps:
    """The source's schema is dropped and made again, at any moment; its rows stay as they are."""
    if not w.lost:
        yield "the source loses its markers", replace(w, lost=True, markers=put(w.markers, 0, None))
    if not w.saw_none and w.markers[0] is None and w.ledger[0] in ("open", "copied"):
        yield "recovery sees no marker", replace(w, saw_none=True)
    if w.saw_none and (w.ledger[0] == "open" or (w.ledger[0] == "copied" and g.fault == "undo after a look")):
        yield "recovery withdraws what it saw", replace(taken_back(w, 0, g), saw_none=False)


def application(w: World, g: Game) -> Steps:
    """It writes to Core and to Main. A copy is not the row until its batch is forgotten; a write hides which batch brought it."""
    if not w.app_left:
        return
    for tier, name in ((CORE, "Core"), (MAIN, "Main")):
        came = w.batch[tier]
        guarded = came is not None and w.ledger[came] != "forgotten" and g.fault != f"no guard at {name}"
        if w.rows[tier] is None or guarded:
            continue
        after = replace(w, batch=put(w.batch, tier, None), app_left=w.app_left - 1)
        # A version's number tells its place too: a write to what is not the row must not pass for one that is.
        new = (w.truth or 0) + 1
        yield f"app updates at {name}", now(replace(after, truth=new, rows=put(w.rows, tier, new)))
        yield f"app deletes at {name}", now(replace(after, truth=None, rows=put(w.rows, tier, None)))


def now(w: World) -> World:
    return replace(w, reader=replace(w.reader, truths=(*w.reader.truths, w.truth))) if w.reader else w


def at_rest(w: World, tier: int, g: Game) -> bool:
    """S1 refuses what came to its tier by a batch that is not forgotten there."""
    came = w.batch[tier]
    return came is None or w.ledger[came] == "forgotten" or g.fault == "no rest before moving on"


def mover(w: World, b: int, g: Game) -> Steps:
    at, name, (src, dst) = w.mover[b], f"batch {b}: ", g.hops[b]
    if may_say(w, b, g):
        yield name + "Core's word", replace(w, word=True)
    if at == "idle" and all(w.ledger[e] in OVER for e in range(b) if g.hops[e] == g.hops[b]):
        if src == CORE and g.word == FIRST and not w.word and "alone" in g.doors:
            return
        yield name + "intent at the destination", replace(w, ledger=put(w.ledger, b, "open"), mover=put(w.mover, b, "intent"))
    elif at == "intent":
        opened = replace(w, markers=put(w.markers, b, "open"), mover=put(w.mover, b, "open"))
        yield name + "marker at the source", says(opened, b, g, WITH_MARKER)
    elif at == "open" and w.rows[src] is not None and at_rest(w, src, g):
        saw = (w.rows[src], w.batch[src])
        yield name + "read the source", replace(w, read=put(w.read, b, saw), mover=put(w.mover, b, "read"))
    elif at == "read":
        if w.ledger[b] != "open":
            yield name + "fenced at the destination", replace(w, mover=put(w.mover, b, "end"))
        elif w.rows[dst] is None:
            copied = replace(w, rows=put(w.rows, dst, w.read[b][0]), batch=put(w.batch, dst, b))
            yield name + "copy", replace(copied, ledger=put(w.ledger, b, "copied"), mover=put(w.mover, b, "copied"))
    elif at in ("copied", "resumed", "taken-over"):
        yield from second(w, b, g)
    elif at == "deleted" and w.ledger[b] == "copied":
        yield name + "done", replace(w, ledger=put(w.ledger, b, "done"), mover=put(w.mover, b, "end"))
    if at not in ("idle", "end", "dead"):
        yield name + "killed", replace(w, mover=put(w.mover, b, "dead"))


def says(w: World, b: int, g: Game, when: str) -> World:
    told = g.hops[b][0] == CORE and g.word == when and "alone" in g.doors
    return replace(w, word=True) if told else w


def may_say(w: World, b: int, g: Game) -> bool:
    """Whether the mover may give the word in a transaction of its own now."""
    if w.word or "alone" not in g.doors or g.hops[b][0] != CORE:
        return False
    if g.word == FIRST:
        return w.mover[b] == "idle"
    return g.word in (BESIDE, SAID_AGAIN) and w.mover[b] in ("intent", "open", "read", "copied")


def second(w: World, b: int, g: Game) -> Steps:
    """The wait, and S2. Who resumes a proven copy does the same, but knows only of a word that it gives itself."""
    own = w.mover[b] == "copied"
    if own and g.hops[b][0] == CORE and g.word in (BESIDE, SAID_AGAIN) and not w.word and "alone" in g.doors:
        return
    r, name, (src, dst) = w.reader, f"batch {b}: ", g.hops[b]
    older = r is not None and dst in r.seen and src not in r.seen and r.batch[dst] != b
    not_waited = g.fault == "no wait for old snapshots" or (
        g.fault == "the fast door is not waited for" and r and r.door == "fast"
    )
    if older and not not_waited:
        return
    unchanged = (w.rows[src], w.batch[src]) == w.read[b] or (g.fault == "delete by key" and w.rows[src] is not None)
    won = w.markers[b] == "open" or (g.fault == "a missing marker is no fence" and w.markers[b] == "dropped")
    if unchanged and won:
        gone = replace(w, rows=put(w.rows, src, None), batch=put(w.batch, src, None))
        moved = replace(gone, markers=put(w.markers, b, "moved"), mover=put(w.mover, b, "deleted"))
        yield name + "delete, marker moved", moved if w.mover[b] == "taken-over" else says(moved, b, g, WITH_DELETE)
    else:
        yield name + "rolled back", replace(w, mover=put(w.mover, b, "dead"))


def recovery(w: World, b: int, g: Game) -> Steps:
    """May run at any time, also beside a mover that is only paused: it tries to abort, then reads who won."""
    name = f"recovery of {b}: "
    if w.ledger[b] not in ("open", "copied"):
        return
    if w.mover[b] == "dead" and w.ledger[b] == "copied" and w.markers[b] == "open" and w.read[b] is not None:
        told = says(w, b, g, SAID_AGAIN)
        if told != w:
            yield name + "Core's word", told
        else:
            resumed = "resumed" if "alone" in g.doors else "copied"  # what it does then is the same but for the word
            yield name + "resumed at the wait", replace(w, mover=put(w.mover, b, resumed))
        if g.older:
            yield f"older recovery of {b}: resumed at the wait", replace(w, mover=put(w.mover, b, "taken-over"))
    if w.markers[b] == "open" and g.fault != "undo without winning the marker":
        yield name + "marker aborted", replace(w, markers=put(w.markers, b, "aborted"))
    elif w.markers[b] == "moved":
        if w.ledger[b] == "copied":
            yield name + "it was moved", replace(w, ledger=put(w.ledger, b, "done"))
    elif w.markers[b] in ("open", "aborted") or w.ledger[b] == "open" or g.fault == "undo without a word of the source":
        yield name + "undo at the destination", taken_back(w, b, g)


def taken_back(w: World, b: int, g: Game) -> World:
    dst = g.hops[b][1]
    undone = replace(w, ledger=put(w.ledger, b, "undone"))
    return replace(undone, rows=put(w.rows, dst, None), batch=put(w.batch, dst, None)) if w.batch[dst] == b else undone


def clearing(w: World, b: int, g: Game) -> Steps:
    """A longest reader after done the destination forgets the batch; another one later the marker goes."""
    r = w.reader
    if w.markers[b] == "aborted" and w.ledger[b] == "undone":
        yield f"aborted marker of {b} dropped", dropped(w, b, g)
    if w.ledger[b] == "done" and (r is None or r.began[b] == "done" or g.fault == "forget too early"):
        yield f"batch {b} forgotten at the destination", replace(w, ledger=put(w.ledger, b, "forgotten"))
    early = g.fault == "marker dropped before the ledger" and w.ledger[b] in ("done", "forgotten")
    late = w.ledger[b] == "forgotten" and (r is None or r.began[b] == "forgotten")
    if w.markers[b] == "moved" and (late or early):
        yield f"marker of {b} dropped", dropped(w, b, g)


def dropped(w: World, b: int, g: Game) -> World:
    gone = replace(w, markers=put(w.markers, b, "dropped"))
    return replace(gone, word=False) if g.fault == "a word goes with its marker" else gone


def reading(w: World, g: Game) -> Steps:
    r = w.reader
    if r is None and w.readers_left:
        nothing, none = (None,) * 3, (None,) * len(g.hops)
        for door in g.doors:
            fresh = Reader(door, w.ledger, (), nothing, nothing, none, none, (w.truth,))
            begun = replace(w, reader=fresh, readers_left=w.readers_left - 1)
            if door == "alone" and g.fault == "a word of another snapshot than the rows":
                yield "alone reader: asks for the word", replace(begun, reader=replace(fresh, told=w.word))
            else:
                yield f"{door} reader: first snapshot", snapshot(begun, fresh, g)
    elif r is not None and not through(r):
        yield f"{r.door} reader: next snapshot", snapshot(w, r, g)
    elif r is not None:
        yield f"{r.door} reader ends", replace(w, reader=None)


def snapshot(w: World, r: Reader, g: Game) -> World:
    tier = DOORS[r.door][len(r.seen)]
    markers = tuple(w.markers[b] if g.hops[b][0] == tier else r.markers[b] for b in range(len(g.hops)))
    ledger = tuple(w.ledger[b] if g.hops[b][1] == tier else r.ledger[b] for b in range(len(g.hops)))
    rows, batch = put(r.rows, tier, w.rows[tier]), put(r.batch, tier, w.batch[tier])
    lost = w.lost if g.hops[0][0] == tier else r.lost
    seen = replace(r, seen=(*r.seen, tier), rows=rows, batch=batch, markers=markers, ledger=ledger, lost=lost)
    if r.door == "alone" and tier == CORE and g.fault != "a word of another snapshot than the rows":
        seen = replace(seen, told=w.word)
    return replace(w, reader=seen)


def through(r: Reader) -> bool:
    return len(r.seen) == (1 if r.door == "alone" and not r.told else 3)


def answer(r: Reader, g: Game) -> list[int]:
    """A row counts where it was written, where its batch is forgotten, or was done before the reader began, for it could be
    forgotten then, or where the source's snapshot says that it was moved.
    """

    def counts(tier: int) -> bool:
        b = r.batch[tier]
        if b is None or (tier == CORE and g.fault == "every row at Core counts"):
            return True
        rested = r.ledger[b] == "done" and (r.began[b] == "done" or g.fault == "done for long by another clock")
        return rested or r.ledger[b] == "forgotten" or r.markers[b] == "moved"

    if r.door == "alone":
        return [] if r.rows[CORE] is None else [r.rows[CORE]]
    return [r.rows[t] for t in range(3) if r.rows[t] is not None and counts(t)]


def arriving(r: Reader, g: Game) -> bool:
    """Whether what the reader saw at Core may be a copy on its way up."""
    return any(r.ledger[b] == "copied" for b, hop in enumerate(g.hops) if hop == UP) and g.fault != "copies at Core are believed"


def broken(w: World, g: Game) -> str | None:
    places = [v for v in w.rows if v is not None]
    in_flight = "copied" in w.ledger
    if w.truth is not None:
        if w.truth not in places:
            return "I1: the row's current version is nowhere"
        if not in_flight and len(places) != 1:
            return "I5: the row is in two tiers and nothing is in flight"
    elif not in_flight and places:
        return "I4: a deleted row came back"
    r = w.reader
    refused = r is not None and r.lost and r.ledger[0] in ("copied", "done") and g.fault != "a stranger is believed"
    refused |= r is not None and r.door == "alone" and ((r.rows[MAIN], r.rows[ARCHIVE]) != (None, None) or arriving(r, g))
    if r is not None and through(r) and not refused:
        rows = answer(r, g)
        if len(rows) > 1 or (rows or [None])[0] not in r.truths:
            who = "reader alone" if r.door == "alone" else f"{r.door} reader"
            return f"I2: a {who} saw {rows}, the row was {r.truths}"
    return None


def explore(g: Game, limit: int | None = None) -> tuple[int, str | None, list[str]]:
    """All states that can be reached (at most `limit`): how many, what is broken, and the shortest way there."""
    none = (None,) * len(g.hops)
    rows = put((None,) * 3, g.start, 0)
    start = World(0, rows, (None,) * 3, none, none, ("idle",) * len(g.hops), none, g.app_writes)
    seen = {hash(start)}  # of 64 bits: two of five million states share one with a chance of one in a million
    todo: deque[tuple[World, Any]] = deque([(start, None)])
    while todo and (limit is None or len(seen) < limit):
        w, path = todo.popleft()
        why = broken(w, g)
        if why:
            trace = []
            while path:
                path, step = path
                trace.append(step)
            return len(seen), why, trace[::-1]
        for step, nxt in steps(w, g):
            h = hash(nxt)
            if h not in seen:
                seen.add(h)
                todo.append((nxt, (path, step)))
    return len(seen), None, []


ALONE = ("alone",)
SMALL: Sequence[Game] = (Game((UP,), MAIN), Game((DOWN,), CORE))
FORGETFUL: Sequence[Game] = (Game((UP,), MAIN, forgetful=True), Game((DOWN,), CORE, forgetful=True))
LARGE: Sequence[Game] = (
    Game((UP, UP), MAIN),  # a second try after a first
    Game((UP, AWAY), MAIN),  # to Core and to the archive at once
    Game((UP, DOWN), MAIN),  # up and down again
    Game((DOWN, UP), CORE),  # down and up again
    Game((DOWN, UP, DOWN), CORE, app_writes=0),
)
TOLD: Sequence[Game] = (
    Game((DOWN,), CORE, doors=ALONE, older=True),
    Game((DOWN,), CORE, doors=ALONE, older=True, word=FIRST),
    Game((DOWN,), CORE, doors=ALONE, word=SAID_AGAIN),
    Game((DOWN,), CORE, doors=ALONE, word=WITH_DELETE),
)
TOLD_LARGE: Sequence[Game] = (
    Game((DOWN, DOWN), CORE, doors=ALONE, older=True),
    Game((DOWN, UP), CORE, doors=ALONE, older=True),
    Game((DOWN, AWAY), CORE, doors=ALONE, older=True),
    Game((DOWN, UP, DOWN), CORE, doors=ALONE, app_writes=0),
)
UNTOLD: Sequence[Game] = (
    Game((DOWN,), CORE, doors=ALONE, word=BESIDE),
    Game((DOWN,), CORE, doors=ALONE, word=SAID_AGAIN, older=True),
    Game((DOWN,), CORE, doors=ALONE, word=WITH_DELETE, older=True),
)
"""Orders in which such a reader is given too few rows."""
FAULTS: Sequence[tuple[str, Game]] = (
    ("no wait for old snapshots", SMALL[0]),
    ("the fast door is not waited for", SMALL[0]),
    ("every row at Core counts", SMALL[0]),
    ("no guard at Core", SMALL[0]),
    ("delete by key", SMALL[0]),
    ("undo without winning the marker", SMALL[0]),
    ("forget too early", SMALL[0]),
    ("marker dropped before the ledger", SMALL[0]),
    ("done for long by another clock", SMALL[1]),
    ("a missing marker is no fence", SMALL[0]),
    ("no guard at Main", SMALL[1]),
    ("undo without a word of the source", FORGETFUL[1]),
    ("undo after a look", FORGETFUL[1]),
    ("a stranger is believed", FORGETFUL[1]),
    ("no rest before moving on", LARGE[2]),
    ("a word of another snapshot than the rows", TOLD[0]),
    ("a word goes with its marker", TOLD[0]),
    ("copies at Core are believed", TOLD_LARGE[1]),
)
