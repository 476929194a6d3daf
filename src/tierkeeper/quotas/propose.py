"""Proposes the cutoffs that cost least under all quotas and a promise to the readers, and tells what one change would do. Pure.

It proposes on a grid of whole days. Where nothing costs less than what is there, it proposes no change.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, inf, log
from typing import Final

from tierkeeper.kernel.policy import TIERS, Tier
from tierkeeper.kernel.results import CutoffChange, OptimiseResult, TierFigures, Unmet, WhatIfResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import format_bytes
from tierkeeper.quotas import stock as s
from tierkeeper.quotas.choosing import Choice, Option, choose
from tierkeeper.quotas.stock import Cutoffs, Stock, World

GRID_DAYS: Final = (
    1, 2, 3, 5, 7, 10, 14, 21, 30, 45, 60, 75, 90, 120, 150, 180, 270, 365, 548, 730, 1_095, 1_460, 1_825, 2_555, 3_650,
)  # fmt: skip
CHANGE_COST: Final = 1e-6  # of a change: where two proposals cost the same, the one that changes less is meant
WORTH_A_MONTH: Final = 0.01  # a proposal that saves less is told as one that nobody need follow
_READS: Final = "reads_in_core"
_SLOWER: Final = "under these quotas more reads than now reach the archive, which is slow"


@dataclass(frozen=True)
class _Way:
    """One table under some cutoffs: what it takes and sends, how many reads Core answers alone, and how many spare the archive.

    `sent`: of the tiers of `World.egress`, in its order.
    """

    cutoffs: Cutoffs
    cost: float
    peak: tuple[float, ...]
    sent: tuple[float, ...]
    kept: int
    spared: int


def optimise(world: World, promise: float, grid: Sequence[int] = GRID_DAYS) -> OptimiseResult:
    """The cheapest cutoffs under which every tier keeps to its limit for a month and `promise` of the reads stay in Core.

    A tier that may send no more than its provider's budget keeps to that as well.
    """
    ways = [_ways(one, world, grid) for one in world.stocks]
    limits = [*(world.room(t) for t in TIERS), *world.egress.values()]
    total = sum(one.asked.total for one in world.stocks)
    least = promise * total
    spared = sum(one.asked.within(one.now.ends[1]) for one in world.stocks)
    notes = _notes(world)
    items = [[_option(w, w.cost, [*w.peak, *w.sent, -w.kept, -w.spared]) for w in some] for some in ways]
    found = choose(items, [*limits, -least, -spared])
    if found is None:  # the archive is slow: more reads reach it only where the quotas leave no other way
        found = choose([[replace(o, uses=o.uses[:-1]) for o in some] for some in items], [*limits, -least])
        notes += [_SLOWER] if found is not None else []
    before = {one.name: one.now for one in world.stocks}
    if found is None:
        return OptimiseResult(
            feasible=False,
            promise=promise,
            currency=_currency(world),
            unmet=_unmet(world, ways, promise, total),
            before=figures(world, before),
            cost_per_month_before=total_cost(world, before),
            reads_in_core_before=reads_in_core(world, before),
            notes=[*notes, *_left_already(world, before)],
        )
    after = {one.name: _cutoffs(option) for one, option in zip(world.stocks, found.options, strict=True)}
    notes += _left_already(world, after)
    if after != before and abs(total_cost(world, before) - total_cost(world, after)) < WORTH_A_MONTH:
        notes += ["the cutoffs of now cost as good as the same, less than a hundredth more or less a month"]
    return OptimiseResult(
        feasible=True,
        optimal=found.optimal,
        gap=None if found.optimal else _rounded(found.gap),
        promise=promise,
        currency=_currency(world),
        changes=changes(world, after),
        before=figures(world, before),
        after=figures(world, after),
        cost_per_month_before=total_cost(world, before),
        cost_per_month_after=total_cost(world, after),
        reads_in_core_before=reads_in_core(world, before),
        reads_in_core_after=reads_in_core(world, after),
        toml=toml(world, after),
        notes=notes,
    )


def what_if(world: World, after: Mapping[TableName, Cutoffs]) -> WhatIfResult:
    """What the cutoffs `after` would come to, beside those of now. `after` lacks what stays as it is."""
    before = {one.name: one.now for one in world.stocks}
    then = {**before, **after}
    told = figures(world, then)
    return WhatIfResult(
        currency=_currency(world),
        changes=changes(world, then),
        before=figures(world, before),
        after=told,
        cost_per_month_before=total_cost(world, before),
        cost_per_month_after=total_cost(world, then),
        reads_in_core_before=reads_in_core(world, before),
        reads_in_core_after=reads_in_core(world, then),
        within_quotas=all(one.used_bytes <= one.limit_bytes for one in told.values()),
        toml=toml(world, then),
        notes=[*_notes(world), *_left_already(world, then)],
    )


def figures(world: World, chosen: Mapping[TableName, Cutoffs]) -> dict[str, TierFigures]:
    """Each tier under the cutoffs `chosen`."""
    told: dict[str, TierFigures] = {}
    for k, tier in enumerate(TIERS):
        looks = [
            world.others_at(tier, ahead) + sum(one.bytes_at(chosen[one.name], ahead)[k] for one in world.stocks)
            for ahead in s.LOOKS
        ]
        price = world.prices[tier]
        told[tier] = TierFigures(
            used_bytes=ceil(max(looks)),
            limit_bytes=int(world.limit(tier)),
            cost_per_month=_rounded(sum(looks) / len(looks) / s.GB * price.storage_per_gb_month + price.fixed_per_month),
            days_to_full=s.days_to_full(world, chosen, tier),
        )
    return told


def total_cost(world: World, chosen: Mapping[TableName, Cutoffs]) -> float:
    """What all tiers cost a month under `chosen`, with what the moves send and the readers ask."""
    fixed = sum(
        world.prices[t].fixed_per_month + world.others_at(t, s.PLAN_DAYS / 2) / s.GB * world.prices[t].storage_per_gb_month
        for t in TIERS
    )  # fmt: skip
    return _rounded(fixed + sum(s.cost_of(one, chosen[one.name], world.prices) for one in world.stocks))


def reads_in_core(world: World, chosen: Mapping[TableName, Cutoffs]) -> float | None:
    """The share of the reads with known ages that Core answers alone; None where there is none."""
    total = sum(one.asked.total for one in world.stocks)
    kept = sum(one.asked.within(chosen[one.name].ends[0]) for one in world.stocks)
    return round(kept / total, 4) if total else None


def changes(world: World, after: Mapping[TableName, Cutoffs]) -> list[CutoffChange]:
    """The tables whose cutoffs change."""
    told = []
    for one in world.stocks:
        then, asked = after[one.name], one.asked
        if then == one.now:
            continue
        shares = [round(asked.within(c.ends[0]) / asked.total, 4) if asked.total else None for c in (one.now, then)]
        told.append(
            CutoffChange(
                table=str(one.name),
                core_days=one.now.core,
                main_days=one.now.main,
                proposed_core_days=then.core,
                proposed_main_days=then.main,
                reads=asked.total,
                reads_in_core=shares[0],
                proposed_reads_in_core=shares[1],
            )
        )
    return told


def toml(world: World, after: Mapping[TableName, Cutoffs]) -> str:
    """The lines of tierkeeper.toml for the tables that change."""
    lines: list[str] = []
    for one in world.stocks:
        then = after[one.name]
        if then == one.now:
            continue
        quoted = str(one.name).replace("\\", "\\\\").replace('"', '\\"')
        lines += ["[[tables]]", f'name = "{quoted}"']
        lines += [f'{key} = "{days} days"' for key, days in (("core", then.core), ("main", then.main)) if days is not None]
        lines.append("")
    return "\n".join(lines)


def _ways(one: Stock, world: World, days: Sequence[int]) -> list[_Way]:
    """Every pair of cutoffs that the grid has for a table, with those of now."""
    edges = {ceil(oldest) for oldest, _ in one.asked.reads if 1 <= oldest <= days[-1]}
    now = {age for age in (one.now.core, one.now.main) if age is not None and age >= 1}
    grid = sorted({*days, *edges, *now})
    pairs = {Cutoffs(core, main) for core in grid for main in grid if main >= core} | {one.now}
    if one.now.main is None:
        pairs |= {Cutoffs(core, None) for core in grid}
    # What the table's entry refuses beside its other keys is no proposal: it could not be written down.
    ordered = sorted((c for c in pairs if c == one.now or one.bounds.fault(c) is None), key=lambda c: c.ends)
    return [_way(one, c, world) for c in ordered]


def _way(one: Stock, cutoffs: Cutoffs, world: World) -> _Way:
    core, main = cutoffs.ends
    cost = s.cost_of(one, cutoffs, world.prices) + _change(one.now, cutoffs)
    sent = s.sent(one, cutoffs)
    sending = tuple(sent[tier] for tier in world.egress)
    return _Way(cutoffs, cost, s.peak(one, cutoffs), sending, one.asked.within(core), one.asked.within(main))


def _change(now: Cutoffs, then: Cutoffs) -> float:
    """So little that it decides only between proposals that cost the same."""
    off = 0.0
    for a, b in ((now.core, then.core), (now.main, then.main)):
        if a != b:
            off += 1.0 + (abs(log(max(1, a) / b)) if a is not None and b is not None else 10.0)
    return CHANGE_COST * off


def _option(way: _Way, cost: float, uses: Sequence[float]) -> Option:
    return Option(cost, tuple(uses), way.cutoffs)


def _cutoffs(option: Option) -> Cutoffs:
    if not isinstance(option.label, Cutoffs):
        raise TypeError("an option of somebody else")
    return option.label


def _unmet(world: World, ways: Sequence[Sequence[_Way]], promise: float, total: int) -> list[Unmet]:
    """Which constraint cannot be met, by how much, and the nearest that can."""

    budgets, left = range(len(world.egress)), list(world.egress.values())

    def best(cost: Callable[[_Way], float], tiers: Sequence[Tier], sends: Sequence[int] = ()) -> Choice | None:
        ks = [TIERS.index(t) for t in tiers]
        items = [[_option(w, cost(w), [*(w.peak[k] for k in ks), *(w.sent[b] for b in sends)]) for w in some] for some in ways]
        return choose(items, [*(world.room(t) for t in tiers), *(left[b] for b in sends)])

    kept = best(lambda w: -w.kept, TIERS, budgets)
    if kept is not None:
        possible = max(0.0, -kept.cost) / total if total else 1.0
        return [
            Unmet(
                constraint=_READS,
                wanted=promise,
                possible=round(possible, 4),
                cause=f"under the quotas at most {possible:.1%} of the reads can stay in Core, not {promise:.1%}",
                remedy=f'Promise less, such as --promise "{int(possible * 100)}%", or give Core a larger quota',
            )
        ]
    for others in (budgets, ()):  # with all other budgets kept; where that is impossible, each by itself
        over = [
            _over_budget(world, at, best(lambda w, at=at: w.sent[at], TIERS, [b for b in others if b != at]))  # type: ignore[misc]
            for at in budgets
        ]
        if any(over):
            return [one for one in over if one is not None]
    found = [_over(world, tier, best(lambda w, k=k: w.peak[k], [t for t in TIERS if t != tier])) for k, tier in enumerate(TIERS)]  # type: ignore[misc]
    alone = [one for one in found if one is not None]
    if alone:
        return alone
    least = [_over(world, tier, best(lambda w, k=k: w.peak[k], [])) for k, tier in enumerate(TIERS)]  # type: ignore[misc]
    return [one for one in least if one is not None and one.possible > one.wanted]


def _over(world: World, tier: Tier, found: Choice | None) -> Unmet | None:
    """What is wrong with a tier that would hold as little as in `found`; None where the others forbid even that."""
    if found is None:
        return None
    others, limit = world.others_at(tier, s.PLAN_DAYS), world.limit(tier)
    possible = found.cost + others
    cause = (
        f"{format_bytes(ceil(possible))} would lie there at least, {format_bytes(ceil(possible - limit))} more than"
        f" {world.start_at:.0%} of its quota; {format_bytes(int(others))} of it are rows that no cutoff moves, and other tables"
    )
    quota = format_bytes(ceil(possible / world.start_at))
    remedy = f"Raise its quota to {quota}, or give tables that stay there a policy"
    return Unmet(constraint=tier, wanted=float(int(limit)), possible=float(ceil(possible)), cause=cause, remedy=remedy)


def _over_budget(world: World, at: int, found: Choice | None) -> Unmet | None:
    """What is wrong with a budget of egress, of which `found` needs the least; None where that keeps to it, or is forbidden."""
    if found is None:
        return None
    tier, left = list(world.egress.items())[at]
    if found.cost <= left:
        return None
    wanted, possible = max(0, int(left)), ceil(found.cost)
    cause = (
        f"the moves of a month would send {format_bytes(possible)} at least, and of its provider's budget {format_bytes(wanted)}"
        " are left beside what is sent already"
    )
    remedy = "Shorten the cutoffs in steps, a month each, or let other readers of it ask for less"
    return Unmet(constraint=f"egress of {tier}", wanted=float(wanted), possible=float(possible), cause=cause, remedy=remedy)


def _notes(world: World) -> list[str]:
    notes = []
    total = sum(one.asked.total for one in world.stocks)
    everything = sum(one.asked.everything for one in world.stocks)
    if not total:
        notes.append("no ages were asked for yet ('query' keeps them), so that the promise holds whatever the cutoffs")
    if everything:
        notes.append(f"scans without a bound on the age read every tier under any cutoffs, and do not count: {everything:,}")
    return notes


def _left_already(world: World, chosen: Mapping[TableName, Cutoffs]) -> list[str]:
    """The reads that the cutoffs `chosen` promise to Core, and that it cannot answer yet."""
    notes = []
    for one in world.stocks:
        end, (whole, _) = chosen[one.name].ends[0], one.whole(chosen[one.name], 0.0)
        reads = one.asked.within(end) - one.asked.within(whole)
        if reads:
            since = round(whole - s.EDGE_DAYS)
            until = f"in {ceil(end - whole)} days" if end < inf else "never, by this cutoff"
            notes.append(
                f"{reads:,} of the reads that count as Core's reach further down as yet: rows of {one.name} that are {since} days"
                f" old have left it already, and a cutoff brings none back. That is over {until}, or once"
                f" `tierkeeper move {one.name} --from main --to core` has"
            )
    return notes


def _currency(world: World) -> str:
    return world.prices["core"].currency


def _rounded(amount: float) -> float:
    return round(amount, 4)
