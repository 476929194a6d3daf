"""What a person wants to see of balanced services."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from tierkeeper.cli.render import bad, cell, count, good, grid, instant, notes, plural, render
from tierkeeper.cli.values import visible
from tierkeeper.kernel import results as r

_COLOURS = {"in": "green", "out": "bold red"}


@render.register(r.BalanceEvent)
def _event(event: r.BalanceEvent) -> Iterator[RenderableType]:
    """A line of a log that a person reads."""
    who = " ".join(visible(w) for w in (event.service, event.backend) if w is not None)
    head = Text.assemble((f"{event.at:%Y-%m-%d %H:%M:%S}Z  ", "dim"), (f"{event.event:<10}", "bold"))
    colour = "red" if event.event == "fault" or event.told.startswith("out") else ""
    yield Text.assemble(head, f"{who}: " if who else "", (visible(event.told), colour))
    if event.error is not None:
        yield Text.assemble(" " * 33, (visible(event.error.remedy), "green"))


@render.register(r.BalanceStatusResult)
def _status(result: r.BalanceStatusResult) -> Iterator[RenderableType]:
    for service in result.services:
        where = service.listen if service.listen_reads is None else f"{service.listen}, reads at {service.listen_reads}"
        yield Text.assemble((visible(service.name), "bold"), f"  {service.protocol} at {visible(where)}, {service.algorithm}")
        if service.why is not None:
            yield Text.assemble("writes  ", (visible(service.primary or "nobody"), "bold"), f": {visible(service.why)}")
        yield _backends(service)
        yield Text()
    if result.tiers:
        yield _tiers(result.tiers)
        yield Text()
    plane = ", ".join(f"{name} {value}" for name, value in result.plane.items())
    if plane:
        yield Text(visible(plane), "dim")
    yield from notes(result.notes)
    if result.running:
        backends = [b for s in result.services for b in s.backends]
        up = sum(b.state == "in" for b in backends)
        told = f"{up} of {plural(len(backends), 'backend')} in"
        yield good(told) if up == len(backends) else bad(told)


def _backends(service: r.BalanceService) -> RenderableType:
    columns = ("Backend", "State", "Share", "Weight", "Latency", "Requests", "Errors", "Since", "Why")
    table = grid(*columns, right=columns[2:7])
    for b in service.backends:
        state = b.state if b.role is None else f"{b.state}, {b.role}"
        shares = " / ".join(f"{p.share:.1%}" for p in b.ports.values())
        weights = " / ".join(f"{p.weight:,}" for p in b.ports.values())
        latency = None if b.latency_seconds is None else f"{b.latency_seconds * 1000:.1f} ms"
        why = b.why if b.again_at is None else f"{b.why} (tried again at {b.again_at:%H:%M:%S})"
        numbers = (cell(shares), cell(weights), cell(latency), count(b.requests), count(b.errors))
        table.add_row(cell(b.name, "bold"), cell(state, _COLOURS.get(b.state, "yellow")), *numbers, instant(b.since), cell(why))
    return table


def _tiers(tiers: Sequence[r.BalanceTier]) -> RenderableType:
    table = grid("Tier", "State", "Since", "Why")
    for t in tiers:
        table.add_row(cell(t.name, "bold"), cell(t.state, _COLOURS.get(t.state, "yellow")), instant(t.since), cell(t.why))
    return table


@render.register(r.BalanceCheckResult)
def _check(result: r.BalanceCheckResult) -> Iterator[RenderableType]:
    table = grid("Asked", "Found", "Took", right=("Took",))
    for item in result.checks:
        took = None if item.latency_seconds is None else f"{item.latency_seconds * 1000:.0f} ms"
        table.add_row(cell(item.name, "bold"), cell(item.found, "" if item.ok else "bold red"), cell(took, "dim"))
    yield table
    for item in result.checks:
        if item.remedy is not None:
            yield Text.assemble((f"{visible(item.name)}  ", "bold"), (visible(item.remedy), "green"))
    yield from notes(result.notes)
    wrong = sum(not item.ok for item in result.checks)
    yield (
        good(f"{plural(len(result.checks), 'thing')} asked, all well") if result.ok else bad(f"{plural(wrong, 'thing')} not well")
    )


@render.register(r.DrainResult)
def _drain(result: r.DrainResult) -> Iterator[RenderableType]:
    what = "takes nothing new" if result.drained else "takes traffic again"
    before = "" if result.changed else ", as before"
    yield good(f"{result.backend} of {result.service} {what}{before}")
    yield from notes(result.notes)
