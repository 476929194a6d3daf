"""What a person wants to see of alerts."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.text import Text

from tierkeeper.cli.render import bad, cell, good, grid, instant, notes, plural, render
from tierkeeper.cli.values import visible
from tierkeeper.kernel import results as r

_COLOURS = {"urgent": "bold red", "serious": "red", "warning": "yellow"}


@render.register(r.AlertTestResult)
def _test(result: r.AlertTestResult) -> Iterator[RenderableType]:
    yield from _targets(result.targets)


@render.register(r.AlertStatusResult)
def _status(result: r.AlertStatusResult) -> Iterator[RenderableType]:
    for alert in result.alerts:
        yield Text.assemble((f"{alert.severity:<8} ", _COLOURS[alert.severity]), (visible(alert.what), "bold"))
        yield Text.assemble(
            ("since    ", "dim"), instant(alert.since), " UTC", "" if alert.state == "firing" else f" ({alert.state})"
        )
        yield Text.assemble(("why      ", "dim"), visible(alert.cause))
        yield Text.assemble(("do now   ", "dim"), (visible(alert.remedy), "green"))
        told = ", ".join(f"{visible(name)} at {at:%Y-%m-%d %H:%M}" for name, at in alert.told.items())
        yield Text.assemble(("told     ", "dim"), told or "nobody yet")
        yield Text()
    if result.resolved:
        over = grid("Over", "Kind", "From", "Until")
        for one in result.resolved:
            over.add_row(cell(one.what), cell(one.kind), instant(one.since), instant(one.resolved_at))
        yield over
        yield Text()
    for target, cause in result.undelivered.items():
        yield bad(f"{target} did not get the last message: {cause}")
    yield from notes(["these are quiet hours: only what is urgent rings"] if result.quiet else [], "blue")
    yield from notes(result.notes)
    firing = sum(a.state == "firing" for a in result.alerts)
    yield good("Nothing needs a person") if not result.alerts else Text(f"{plural(firing, 'alert')} firing")


@render.register(r.AlertTurnResult)
def _turn(result: r.AlertTurnResult) -> Iterator[RenderableType]:
    for line in result.told:
        yield Text(visible(line))
    yield from _targets(result.targets)
    yield from notes([f"not seen: {line}" for line in result.unseen])
    yield from notes(["another machine is telling now"] if result.waits else [], "blue")
    firing = f"{plural(result.firing, 'alert')} firing, {result.pending} pending"
    yield Text(f"{firing}; see them with `tierkeeper alert status`") if result.firing or result.pending else good(firing)


@render.register(r.AwakeResult)
def _awake(result: r.AwakeResult) -> Iterator[RenderableType]:
    table = grid("Tier", "Pauses after", "Last read", "Of")
    for name, tier in result.tiers.items():
        table.add_row(cell(name, "bold"), cell(f"{tier.pauses_after_days} days"), instant(tier.read_at), cell(tier.table))
    yield table


def _targets(targets: list[r.AlertTargetResult]) -> Iterator[RenderableType]:
    for target in targets:
        if target.ok:
            yield good(f"{target.target} has got it")
        else:
            tries = "1 try" if target.tries == 1 else f"{target.tries} tries"
            yield bad(f"{target.target} has not got it after {tries}: {target.cause}")
