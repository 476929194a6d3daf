"""What a person wants to see of proposals for cutoffs. Pure."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tierkeeper.cli.render import amount, bad, cell, good, grid, notes, size
from tierkeeper.cli.values import visible
from tierkeeper.kernel import results as r


def optimise(result: r.OptimiseResult) -> Iterator[RenderableType]:
    """The proposal, or what keeps one from being made."""
    if not result.feasible:
        for one in result.unmet:
            yield bad(f"{one.constraint}: {one.cause}")
            yield Text.assemble("  ", (visible(one.remedy), "green"))
        yield from notes(result.notes)
        return
    if result.changes:
        yield _changes(result.changes, "Proposed")
        yield Text()
    yield _tiers(result.before, result.after if result.changes else {}, result.currency)
    yield Text()
    yield _totals(
        result.currency,
        (result.cost_per_month_before, result.cost_per_month_after),
        (result.reads_in_core_before, result.reads_in_core_after),
    )
    yield from notes(result.notes)
    if not result.changes:
        yield good("No other cutoffs cost less and keep to the quotas and the promise")
        return
    yield from _lines(result.toml)
    if result.optimal:
        yield good(
            "Of all cutoffs on the grid of days that keep to all quotas and the promise these cost least. Nothing was changed"
        )
    else:
        yield good(f"A better proposal could save {result.gap:,.2f} {result.currency} a month at most. Nothing was changed")


def what_if(result: r.WhatIfResult) -> Iterator[RenderableType]:
    """Both sides of a change."""
    if result.changes:
        yield _changes(result.changes, "Then")
        yield Text()
    yield _tiers(result.before, result.after, result.currency)
    yield Text()
    yield _totals(
        result.currency,
        (result.cost_per_month_before, result.cost_per_month_after),
        (result.reads_in_core_before, result.reads_in_core_after),
    )
    yield from notes(result.notes)
    yield from _lines(result.toml)
    if result.within_quotas:
        yield good("Every tier keeps to its quota for the next month. Nothing was changed")
    else:
        over = [name for name, one in result.after.items() if one.used_bytes > one.limit_bytes]
        yield bad(f"{', '.join(over)} would hold more than it may within the next month. Nothing was changed")


def _changes(changes: Sequence[r.CutoffChange], then: str) -> Table:
    columns = ("Core now", then, "Main now", f"{then} ", "Reads in Core", f"{then}  ")
    table = grid("Table", *columns, right=columns)
    for one in changes:
        days = (one.core_days, one.proposed_core_days, one.main_days, one.proposed_main_days)
        shares = (_share(one.reads_in_core), _share(one.proposed_reads_in_core))
        table.add_row(cell(one.table, "bold"), *(_days(d) for d in days), *shares)
    return table


def _tiers(before: Mapping[str, r.TierFigures], after: Mapping[str, r.TierFigures], currency: str) -> Table:
    columns = ("Holds", "Then", "May hold", "Cost a month", "Then ", "Full in", "Then  ")
    used = columns if after else tuple(c for c in columns if not c.startswith("Then"))
    table = grid("Tier", *used, right=used)
    for name, now in before.items():
        then = after.get(name)
        cells = {
            "Holds": size(now.used_bytes),
            "May hold": size(now.limit_bytes),
            "Cost a month": amount(now.cost_per_month, currency),
            "Full in": _until(now),
        }
        if then is not None:
            over = "bold red" if then.used_bytes > then.limit_bytes else ""
            cells |= {"Then": Text(str(size(then.used_bytes)), over), "Then ": amount(then.cost_per_month, currency)}
            cells["Then  "] = _until(then)
        table.add_row(cell(name, "bold"), *(cells[c] for c in used))
    return table


def _totals(currency: str, cost: tuple[float | None, float | None], reads: tuple[float | None, float | None]) -> Text:
    before, after = (str(amount(c, currency)) for c in cost)
    said = f"All in all a month: {before}, then {after}" if before != after else f"All in all a month: {before}, then as well"
    if reads[0] is not None:
        said += f". Reads that Core answers alone: {reads[0]:.1%}, then {reads[1] or 0:.1%}"
    return Text(said)


def _lines(toml: str) -> Iterator[RenderableType]:
    if toml:
        yield Text("In tierkeeper.toml, in the entries of these tables:", "dim")
        yield Text("\n".join("  " + line for line in visible(toml.strip()).splitlines()))


def _days(days: int | None) -> Text:
    return cell("stay", "dim") if days is None else cell(f"{days:,} d")


def _share(share: float | None) -> Text:
    return cell(None if share is None else f"{share:.1%}")


def _until(figures: r.TierFigures) -> Text:
    return cell("never", "dim") if figures.days_to_full is None else cell(f"{figures.days_to_full:,.0f} d")
