"""What a person wants to see of each result. Pure: a result in, things to print out.

Values of the database reach the terminal only through `values.visible`.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import singledispatch
from typing import Final

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tierkeeper.cli.values import visible
from tierkeeper.kernel import results as r
from tierkeeper.kernel.units import format_bytes

_BAR_CELLS: Final = 10
_HIGH: Final = 0.7
_FULL: Final = 0.85
_SHORT: Final = 16  # digits of a fingerprint that was just compared
_SOON_DAYS: Final = 7  # a tier that may be full within a week wants a look
_GIVEN_BACK: Final = "Space given back"
_OWN: Final = "tierkeeper"
_TIERS: Final = ("core", "main", "archive")


def grid(*columns: str, right: Iterable[str] = ()) -> Table:
    """A table without lines; the columns named in `right` hold numbers."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for name in columns:
        table.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return table


def cell(value: object, style: str = "") -> Text:
    """A value as a cell; what is not known is a dash."""
    return Text("-", "dim") if value is None else Text(visible(str(value)), style)


def count(number: int | None) -> Text:
    """12345 -> "12,345"."""
    return cell(None if number is None else f"{number:,}")


def size(size_bytes: int | None) -> Text:
    """Bytes as people read them."""
    return cell(None if size_bytes is None else format_bytes(size_bytes))


def instant(moment: datetime | None) -> Text:
    """An instant in UTC, without what is zero."""
    if moment is None:
        return cell(None)
    text = moment.strftime("%Y-%m-%d %H:%M:%S")
    return cell(text.removesuffix(":00").removesuffix(" 00:00"))


def pairs(*rows: tuple[str, Text]) -> Table:
    """Names and values below each other."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    return table


def bar(share: float | None) -> Text:
    """A share of a quota: green, yellow from 70 %, red from 85 %."""
    if share is None:
        return cell(None)
    color = "red" if share >= _FULL else "yellow" if share >= _HIGH else "green"
    filled = min(_BAR_CELLS, round(share * _BAR_CELLS))
    return Text.assemble(("█" * filled, color), ("░" * (_BAR_CELLS - filled), "dim"), f" {share:4.0%}")


def notes(lines: Sequence[str], style: str = "yellow") -> Iterator[RenderableType]:
    """Remarks below a result."""
    for line in lines:
        yield Text.assemble(("note  ", style), visible(line).replace("\n", "\n      "))


def waits(errors: Sequence[r.ErrorResult]) -> Iterator[RenderableType]:
    """What had to wait, each with what to do about it."""
    for error in errors:
        yield bad(f"{error.place}: {error.cause}")
        yield Text.assemble("  ", (visible(error.remedy), "green"))


def good(text: str) -> Text:
    """The closing line of something that went well."""
    return Text.assemble(("✓ ", "bold green"), visible(text))


def bad(text: str) -> Text:
    """The closing line of something that did not."""
    return Text.assemble(("✗ ", "bold red"), visible(text))


def plural(number: int, word: str) -> str:
    """3, "row" -> "3 rows"; 2, "batch" -> "2 batches"."""
    return f"{number:,} {word}{'' if number == 1 else 'es' if word.endswith('ch') else 's'}"


@singledispatch
def render(result: object) -> Iterator[RenderableType]:
    """The lines and tables for `result`."""
    raise TypeError(f"nobody says how a person reads a {type(result).__name__}")


@render.register(r.CheckResult)
def _check(result: r.CheckResult) -> Iterator[RenderableType]:
    table = grid("Looked at", "Found")
    for item in result.checks:
        table.add_row(cell(item.place, "bold"), cell(item.finding))
    yield table
    yield from notes(result.notes)
    yield good(f"{plural(len(result.checks), 'thing')} looked at, all good") if result.ok else bad("Something is wrong")


@render.register(r.SetupResult)
def _setup(result: r.SetupResult) -> Iterator[RenderableType]:
    for one in result.trusted:
        told = f"believe the authority SHA-256 {one.sha256[:_SHORT]}… at {one.host} ({one.file})"
        yield Text.assemble((f"{one.tier:<9}", "bold"), visible(told))
    shown = [s for s in result.steps if not _is_own(s)]
    for tier in dict.fromkeys(s.tier for s in result.steps if _is_own(s)):
        own = sum(s.tier == tier and _is_own(s) for s in result.steps)
        what = f"make what is missing of tierkeeper's own schema ({plural(own, 'step')}; --json shows their SQL)"
        shown.insert(0, r.SetupStep(tier=tier, action=what))
    shown.sort(key=lambda s: _TIERS.index(s.tier) if s.tier in _TIERS else len(_TIERS))
    for step in shown:
        yield Text.assemble((f"{visible(step.tier):<9}", "bold"), visible(step.action))
        if step.sql and not result.applied:
            indented = "\n".join(" " * 9 + line for line in visible(step.sql).splitlines())
            yield Text(indented, "dim")
    yield from notes(result.notes)
    yield from waits(result.errors)
    if not result.steps:
        if not result.errors:
            yield good("Nothing is missing")
    elif result.applied:
        yield good(f"{plural(len(result.steps), 'step')} done")
    else:
        yield Text.assemble("Nothing was changed. Do it with: ", ("tierkeeper setup --apply", "bold"))


def _is_own(step: r.SetupStep) -> bool:
    """Whether the step makes a part of tierkeeper's own schema, which holds nothing of the user's."""
    return f" {_OWN}" in step.action or f"INTO {_OWN}." in step.sql


Outlook = Mapping[str, tuple[r.ForecastResult | None, r.CostResult | None]]


def spending(tiers: Outlook, total: r.CostTotal | None) -> Iterator[RenderableType]:
    """When each tier is full and what it costs; nothing where neither is known."""
    known = {name: (f, c) for name, (f, c) in tiers.items() if f is not None and c is not None}
    if not known:
        return
    columns = ("Grows a day", "Cost so far", "This month")
    table = grid("Tier", "Full", *columns, "", right=columns)
    for name, (f, c) in known.items():
        is_told = f.confidence not in ("high", "none") or f.reason.startswith(r.HISTORY_AWAY)
        about = c.note or (f"{f.confidence} confidence: {f.reason}" if is_told else "")
        grows = cell(None) if f.confidence == "none" else size(round(f.bytes_per_day))
        amounts = (amount(c.so_far, c.currency), amount(c.month, c.currency))
        table.add_row(cell(name, "bold"), _full(f), grows, *amounts, cell(about, "yellow" if c.note else "dim"))
    if total is not None and total.month:
        table.add_row(cell("all"), Text(), Text(), amount(total.so_far, total.currency), amount(total.month, total.currency))
    yield Text()
    yield table


def amount(value: float | None, currency: str) -> Text:
    """An amount of money; nothing is free."""
    if value is None:
        return cell(None)
    return cell(f"{value:,.2f} {currency}") if value else cell("free", "dim")


def _full(forecast: r.ForecastResult) -> Text:
    if forecast.confidence == "none":
        return cell("not known yet" if forecast.likely is None else "now", "dim")
    if forecast.likely is None:
        return cell("not foreseen", "green")
    days = forecast.days_to_full or 0.0
    driver = f" ({forecast.driver})" if forecast.driver else ""
    if forecast.earliest is None:
        return cell(f"in {days:.0f} days{driver}")
    first = max(0.0, days - (forecast.likely - forecast.earliest).total_seconds() / 86_400)
    return cell(f"in {days:.0f} days, {first:.0f} at the earliest{driver}", "yellow" if first < _SOON_DAYS else "")


@render.register(r.StatusResult)
def _status(result: r.StatusResult) -> Iterator[RenderableType]:
    tiers = grid("Tier", "Used", "Quota", "", "Health", right=("Used", "Quota"))
    for name, tier in result.tiers.items():
        health = cell("ok", "green") if tier.cause is None else cell(tier.cause, "yellow" if tier.healthy else "bold red")
        tiers.add_row(cell(name, "bold"), size(tier.used_bytes), size(tier.quota_bytes), bar(tier.share), health)
    yield tiers
    yield from spending({n: (t.forecast, t.cost) for n, t in result.tiers.items()}, result.cost)
    for name, tier in result.tiers.items():
        if tier.egress_budget_bytes:
            yield egress(name, tier.egress_bytes_this_month, tier.egress_budget_bytes)
    if result.tables:
        yield Text()
        yield _tables(result.tables)
    else:
        yield from notes(["no table has a policy yet: add [[tables]] entries to tierkeeper.toml"])
    if result.archive is not None and result.archive.segments:
        yield Text()
        yield _reading(result.archive)
    for target, cause in result.undelivered.items():
        yield bad(f"alerts: {target} did not get the last message: {cause}")
    remedies = [(name, tier.remedy) for name, tier in result.tiers.items() if tier.remedy]
    remedies += [(name, table.remedy) for name, table in result.tables.items() if table.remedy]
    if remedies:
        yield Text()
    for name, remedy in remedies:
        yield Text.assemble((f"{visible(name):<8} ", "bold"), (visible(remedy), "green"))


def egress(tier: str, received_bytes: int | None, budget_bytes: int) -> Text:
    """What came from a tier this month beside what its provider gives."""
    if received_bytes is None:
        return Text(visible(f"what {tier} sent of {format_bytes(budget_bytes)} this month is not known now"), "yellow")
    share = received_bytes / budget_bytes
    text = f"{tier} sent {format_bytes(received_bytes)} of {format_bytes(budget_bytes)} this month to tierkeeper"
    return Text(visible(text), "red" if share >= _FULL else "yellow" if share >= _HIGH else "dim")


def _reading(archive: r.ReadingStatus) -> Text:
    read, oldest = archive.segments - archive.unread, instant(archive.oldest_read_at)
    text = f"{read} of {plural(archive.segments, 'archived segment')} read back whole since written"
    text = f"{text}, the longest ago {oldest}" if read else text
    drill = archive.drill
    if drill is not None:
        went = "went well" if drill.ok else "found something wrong"
        text += f"; the drill of {instant(drill.at)} {went} ({drill.restored} of {drill.segments})"
    worry = archive.unread or (drill is not None and not drill.ok)
    return Text(text, "yellow" if worry else "dim")


def _tables(tables: dict[str, r.TableStatus]) -> Table:
    columns = ("Table", "Mode", "Core", "Main", "Archive", "Waits")
    table = grid(*columns, right=columns[2:5])
    for name, one in tables.items():
        waits = [] if one.cause is None else [one.cause]
        if one.core_rows_estimate is None and one.main_rows_estimate is None and one.in_flight is not None:
            waits.append("there is no such table")
        if one.in_flight:
            waits.append(f"{plural(one.in_flight, 'interrupted batch')}: the next run settles it")
        if one.conflicts:
            waits.append(f"{plural(len(one.conflicts), 'key')} in Core and in Main: {', '.join(one.conflicts[:3])}")
        rows = (_estimate(one.core_rows_estimate), _estimate(one.main_rows_estimate), count(one.archive_rows))
        table.add_row(cell(name, "bold"), cell(one.mode), *rows, cell("; ".join(waits), "yellow"))
    return table


def _estimate(rows: int | None) -> Text:
    return cell(None if rows is None else f"~{rows:,}")


@render.register(r.QuotaResult)
def _quota(result: r.QuotaResult) -> Iterator[RenderableType]:
    tiers = grid("Tier", "Before", "After", "Quota", "", "Counted", right=("Before", "After", "Quota"))
    for name, tier in result.tiers.items():
        used = tier.used_bytes_after if tier.used_bytes_after is not None else tier.used_bytes_before
        share = None if used is None else used / tier.quota_bytes
        sizes = (size(tier.used_bytes_before), size(tier.used_bytes_after), size(tier.quota_bytes))
        tiers.add_row(cell(name, "bold"), *sizes, bar(share), cell(tier.counted, "dim"))
    yield tiers
    yield from spending({n: (t.forecast, t.cost) for n, t in result.tiers.items()}, None)
    if result.moves:
        yield Text()
        yield moves_table(result.moves)
        for move in result.moves:
            yield from notes([f"{move.table}: {note}" for note in move.notes])
    if result.plans:
        yield Text()
        yield plans_table(result.plans)
    if result.choices:
        yield Text()
        chosen = grid("Chosen", "From", "Rows", "Gives back", "Why", right=("Rows", "Gives back"))
        for one in result.choices:
            figures = (count(one.rows), size(one.bytes))
            chosen.add_row(cell(one.table, "bold"), cell(one.tier), *figures, cell(one.why, "yellow" if one.early else ""))
        yield chosen
    if result.reclaimed:
        yield Text()
        space = grid(_GIVEN_BACK, "Tier", "Relation", "By", "Before", "After", "Seconds", right=("Before", "After", "Seconds"))
        for back in result.reclaimed:
            space.add_row(
                cell(back.table, "bold"),
                cell(back.tier),
                cell(back.relation),
                cell(back.method),
                size(back.bytes_before),
                size(back.bytes_after),
                cell(f"{back.seconds:.1f}"),
            )
        yield space
    yield from notes(result.notes)
    yield from waits(result.errors)
    for still in result.stays_full:
        yield bad(still.cause) if still.over_quota else Text.assemble(("note  ", "yellow"), visible(still.cause))
        yield Text.assemble("  ", (visible(still.remedy), "green"))
    if result.dry_run:
        yield Text("Nothing was changed (dry run).")
    elif not result.errors:
        moved = {to: sum(m.rows for m in result.moves if m.to == to) for to in ("main", "archive")}
        said = f"{plural(moved['main'], 'row')} moved to Main, {plural(moved['archive'], 'row')} to the archive"
        yield Text(said) if any(still.over_quota for still in result.stays_full) else good(said)


def moves_table(moves: Sequence[r.MoveResult]) -> Table:
    """One line for each table and hop."""
    numbers = ("Rows", "Batches", "Size", "Seconds")
    table = grid("Moved", "From", "To", *numbers, "Ended because", right=numbers)
    for m in moves:
        sizes = (count(m.rows), count(m.batches), size(m.bytes), cell(f"{m.seconds:.1f}"))
        table.add_row(cell(m.table, "bold"), cell(m.from_), cell(m.to), *sizes, cell(m.stopped_because))
    return table


def plans_table(plans: Sequence[r.MovePlan]) -> Table:
    """One line for each table and hop that would move."""
    table = grid("Would move", "From", "To", "Rows", "Batches", "Older than", right=("Rows", "Batches"))
    for p in plans:
        hop = (cell(p.from_), cell(p.to), count(p.rows), count(p.batches))
        table.add_row(cell(p.table, "bold"), *hop, instant(p.cutoff))
    return table


@render.register(r.InitResult)
def _init(result: r.InitResult) -> Iterator[RenderableType]:
    yield good(f"{result.file} is written")
    for name in result.found:
        yield Text.assemble(("  set      ", "green"), name)
    for name in result.missing:
        yield Text.assemble(("  missing  ", "yellow"), name, ("  set it in the environment or in .env", "dim"))
    yield Text.assemble("Next: name your tables in it, then ", ("tierkeeper check", "bold"))


@render.register(r.HealthResult)
def _health(result: r.HealthResult) -> Iterator[RenderableType]:
    table = grid("Service", "Health", "Answered in", "", right=("Answered in",))
    for item in result.checks:
        health = cell("ok", "green") if item.healthy else cell("away", "bold red")
        latency = None if item.latency_seconds is None else f"{item.latency_seconds * 1000:.0f} ms"
        about = Text() if item.healthy else Text.assemble(visible(item.cause or ""), ". ", (visible(item.remedy or ""), "green"))
        table.add_row(cell(item.name, "bold"), health, cell(latency), about)
    yield table
    away = sum(not item.healthy for item in result.checks)
    yield good("All services answer") if result.ok else bad(f"{away} of {plural(len(result.checks), 'service')} do not answer")
