"""What a person wants to see of usage: each tier with what fills it, and its curve. Pure."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tierkeeper.cli.render import bar, cell, count, egress, good, grid, notes, pairs, render, size, waits
from tierkeeper.cli.values import visible
from tierkeeper.kernel import results as r
from tierkeeper.kernel.limits import SPARK_CELLS
from tierkeeper.kernel.units import format_bytes

_BLOCKS: Final = "▁▂▃▄▅▆▇█"
_TABLE_CELLS: Final = 12  # of a table's curve, which stands beside other figures


def sparkline(samples: Sequence[r.UsageSample], cells: int = SPARK_CELLS) -> str:
    """The curve from its least to its most, each cell an equal piece of time; a blank where nothing was measured."""
    if not samples:
        return ""
    least, most = min(s.bytes for s in samples), max(s.bytes for s in samples)
    begin, end = samples[0].at.timestamp(), samples[-1].at.timestamp()
    cells = min(cells, len(samples))
    largest: dict[int, int] = {}
    for s in samples:
        at = 0 if end == begin else min(cells - 1, int((s.at.timestamp() - begin) / (end - begin) * cells))
        largest[at] = max(largest.get(at, 0), s.bytes)
    top = len(_BLOCKS) - 1
    return "".join(
        " " if i not in largest else _BLOCKS[round((largest[i] - least) / (most - least) * top) if most > least else 0]
        for i in range(cells)
    )


def curve(samples: Sequence[r.UsageSample], cells: int = SPARK_CELLS, *, last: bool = True) -> Text:
    """The curve beside its least, its most and, unless that stands near it already, its `last`."""
    if not samples:
        return cell(None)
    least, most = min(s.bytes for s in samples), max(s.bytes for s in samples)
    told = f" {format_bytes(least)} … {format_bytes(most)}" + (f", last {format_bytes(samples[-1].bytes)}" if last else "")
    return Text.assemble((sparkline(samples, cells), "cyan"), (told, "dim"))


@render.register(r.UsageResult)
def _usage(result: r.UsageResult) -> Iterator[RenderableType]:
    for number, (name, tier) in enumerate(result.tiers.items()):
        if number:
            yield Text()
        yield from _tier(name, tier)
    if result.history is not None:
        yield from notes([f"Main's part of the curves is missing: {result.history.cause}. {result.history.remedy}"])
    elif not any(t.samples for t in result.tiers.values()):
        yield from notes(["nothing was recorded yet: 'tierkeeper usage --record' takes a sample"], "blue")
    if result.recorded is not None:
        yield Text()
        yield from _recorded(result.recorded)


def _tier(name: str, tier: r.TierUsage) -> Iterator[RenderableType]:
    share = None if tier.bytes is None else tier.bytes / tier.quota_bytes
    yield Text.assemble((f"{name}  ", "bold"), size(tier.bytes), f" of {format_bytes(tier.quota_bytes)}  ", bar(share))
    if tier.error is not None:
        yield from waits([tier.error])
    yield pairs(*_facts(name, tier))
    if tier.egress_budget_bytes:
        yield egress(name, tier.egress_bytes_this_month, tier.egress_budget_bytes)
    if tier.tables:
        yield from [_archived(tier)] if name == "archive" else _tables(tier)
    for slot in tier.slots:
        pinned = "no log" if slot.pinned_wal_bytes is None else f"{format_bytes(slot.pinned_wal_bytes)} of log"
        reader = "" if slot.active else ", and nobody reads it"
        yield Text(visible(f"slot {slot.name} ({slot.kind}) pins {pinned}{reader}"), "dim" if slot.active else "yellow")
    if tier.slow_statements:
        yield _slow(tier.slow_statements)


def _facts(name: str, tier: r.TierUsage) -> Iterator[tuple[str, Text]]:
    if tier.database_bytes is not None and name == "archive":
        yield "catalog", size(tier.database_bytes)
    elif tier.database_bytes is not None:
        parts = [("tables", tier.tables_bytes), ("system", tier.system_bytes), ("tierkeeper", tier.own_bytes)]
        parts += [("other databases", tier.other_databases_bytes)] if tier.other_databases_bytes else []
        yield "of that", cell(", ".join(f"{what} {format_bytes(of or 0)}" for what, of in parts))
    if tier.wal_bytes is not None:
        yield "log on disk", size(tier.wal_bytes)
    hits = _hits(tier)
    if hits is not None:
        yield "from memory", cell(f"{hits} of pages")
    if tier.samples:
        yield "over time", curve(tier.samples)
    if tier.days:
        yield "last day", cell(_day(tier.days[-1]))


def _day(day: r.UsageDay) -> str:
    return f"{day.reads:,} rows read, {day.writes:,} written"


def _tables(tier: r.TierUsage) -> Iterator[RenderableType]:
    """Where each table's bytes are, then what was done to it: side by side they would not fit a terminal."""
    columns = ("Table", "Total", "Rows", "Heap", "TOAST", "Indexes", "Dead", "Free")
    sizes = _named(grid(*columns, right=columns[1:]))
    told = ("Table", "Read/day", "Written/day", "From memory", "Over time")
    done = _named(grid(*told, right=told[1:-1]))
    for name, one in tier.tables.items():
        parts = (one.heap_bytes, one.toast_bytes, one.index_bytes, one.dead_bytes, one.reusable_bytes)
        rows = cell(None if one.rows is None else f"~{one.rows:,}")
        style = "bold" if one.of_policy else ""
        sizes.add_row(cell(f"{name} (locked)" if one.estimated else name, style), size(one.bytes), rows, *map(size, parts))
        if one.samples:
            a_day = (count(_a_day([d.reads for d in one.days])), count(_a_day([d.writes for d in one.days])))
            done.add_row(cell(name, style), *a_day, cell(_hits(one)), curve(one.samples, _TABLE_CELLS, last=False))
    yield sizes
    if done.row_count:
        yield done


def _named(table: Table) -> Table:
    """A table whose first column is never cut: it is what one copies."""
    table.columns[0].no_wrap = True
    return table


def _hits(one: r.TableUsage | r.TierUsage) -> str | None:
    hits, misses = one.cache_hits or 0, one.cache_reads or 0
    return f"{hits / (hits + misses):.1%}" if hits + misses else None


def _a_day(counts: Sequence[int]) -> int | None:
    """What there is on a day, over the days that are known."""
    return round(sum(counts) / len(counts)) if counts else None


def _archived(tier: r.TierUsage) -> RenderableType:
    table = grid("Table", "In the store", "Rows", "Segments", "Over time", right=("In the store", "Rows", "Segments"))
    for name, one in tier.tables.items():
        table.add_row(
            cell(name, "bold"), size(one.bytes), count(one.rows), count(one.parts), Text(sparkline(one.samples), "cyan")
        )
    return table


def _slow(statements: Sequence[r.SlowStatement]) -> RenderableType:
    columns = ("Calls", "Total", "Each", "Slow statement")
    table = grid(*columns, right=columns[:-1])
    table.columns[-1].no_wrap, table.columns[-1].overflow = True, "ellipsis"
    for one in statements:
        each = f"{one.seconds / max(1, one.calls) * 1000:,.1f} ms"
        table.add_row(count(one.calls), cell(f"{one.seconds:,.1f} s"), cell(each), cell(one.text))
    return table


def _recorded(result: r.RecordResult) -> Iterator[RenderableType]:
    yield from waits(result.errors)
    sent = f", and {result.sent:,} that had waited here" if result.sent else ""
    if result.where == "main":
        yield good(f"{result.samples} samples written to Main{sent}")
    elif result.where == "spool":
        yield Text.assemble(("waits  ", "yellow"), f"{result.samples} samples wait on this machine until Main is back")
    else:
        yield from notes([f"{result.samples} samples could not be written anywhere"], "red")
