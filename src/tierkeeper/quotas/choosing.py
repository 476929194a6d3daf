"""Chooses one option for each of several items at the least cost within limits that they share. Exact, or with a bound. Pure.

It knows nothing of tiers: an option has a cost and so much use of each limit. The bound is that of Lagrange: with a price on each
limit every item chooses for itself, and what that costs, less the price of the limits, no choice within the limits can undercut.
The search goes through the items, prunes by that bound, and ends with the proof or, after `NODES`, with the gap that is left.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf
from typing import Final

NODES: Final = 200_000  # partial choices that are looked at: some seconds; what is left open then is told as the gap
ROUNDS: Final = 150  # of the search for prices on the limits; more move the bound by less than the answer's cents
SLACK: Final = 1e-9  # of a limit: sums of floating-point numbers are not exact


@dataclass(frozen=True)
class Option:
    """What it costs, and what it uses of each limit. `label` is the caller's."""

    cost: float
    uses: tuple[float, ...]
    label: object = None


@dataclass(frozen=True)
class Choice:
    """The best choice found: an option for each item, its cost, and a cost that no choice within the limits undercuts.

    `gap` is their difference: 0 where the choice is proven to be the best.
    """

    options: tuple[Option, ...]
    cost: float
    bound: float

    @property
    def gap(self) -> float:
        return max(0.0, self.cost - self.bound)

    @property
    def optimal(self) -> bool:
        return self.gap <= SLACK * max(1.0, abs(self.cost))


def choose(items: Sequence[Sequence[Option]], limits: Sequence[float], *, nodes: int = NODES) -> Choice | None:
    """The cheapest choice of one option for each of `items` whose uses add up to no more than `limits`.

    None where there is none, or where none was found within `nodes`.
    """
    search = _Search([useful(options) for options in items], tuple(limits), nodes)
    return search.run()


def useful(options: Sequence[Option]) -> list[Option]:
    """Those of `options` that no other is as good as in every respect."""
    kept: list[Option] = []
    for option in sorted(options, key=lambda o: (o.cost, sum(o.uses))):
        if not any(k.cost <= option.cost and all(a <= b for a, b in zip(k.uses, option.uses, strict=True)) for k in kept):
            kept.append(option)
    return kept


class _Search:
    def __init__(self, items: Sequence[list[Option]], limits: tuple[float, ...], nodes: int) -> None:
        # Where the options differ most there is most to decide: these come first.
        self._order = sorted(range(len(items)), key=lambda i: -(max(o.cost for o in items[i]) - min(o.cost for o in items[i])))
        self._items = [items[i] for i in self._order]
        self._limits = tuple(limit + SLACK * max(1.0, abs(limit)) for limit in limits)
        self._nodes = nodes
        self._best: tuple[float, tuple[Option, ...]] | None = None
        self._open = inf  # the least bound among what was left unseen

    def run(self) -> Choice | None:
        prices, bound = self._prices()
        reduced = [sorted(options, key=lambda o: _reduced(o, prices)) for options in self._items]
        self._items = reduced
        least = [min(_reduced(o, prices) for o in options) for options in reduced]
        self._rest = [sum(least[i:]) for i in range(len(least) + 1)]
        self._cheapest = [sum(min(o.cost for o in options) for options in reduced[i:]) for i in range(len(reduced) + 1)]
        width = len(self._limits)
        self._needs = [
            tuple(sum(min(o.uses[k] for o in options) for options in reduced[i:]) for k in range(width))
            for i in range(len(reduced) + 1)
        ]
        self._priced = prices
        self._walk()
        if self._best is None:
            return None
        cost, options = self._best
        by_item = sorted(zip(self._order, options, strict=True), key=lambda pair: pair[0])
        return Choice(tuple(o for _, o in by_item), cost, min(cost, max(bound, min(self._open, cost))))

    def _prices(self) -> tuple[tuple[float, ...], float]:
        """Prices on the limits that make the bound high, by subgradient steps, and that bound."""
        prices, best, bound = [0.0] * len(self._limits), (0.0,) * len(self._limits), -inf
        spread = sum(max(o.cost for o in options) - min(o.cost for o in options) for options in self._items)
        for k in range(ROUNDS):
            chosen = [min(options, key=lambda o: _reduced(o, prices)) for options in self._items]
            use = [sum(o.uses[j] for o in chosen) for j in range(len(prices))]
            over = [u - limit for u, limit in zip(use, self._limits, strict=True)]
            value = sum(_reduced(o, prices) for o in chosen) - sum(p * n for p, n in zip(prices, self._limits, strict=True))
            if value > bound:
                bound, best = value, tuple(prices)
            size = sum((o / (abs(n) or 1.0)) ** 2 for o, n in zip(over, self._limits, strict=True))
            if size == 0:
                break
            step = (spread + 1e-9) * 0.5 * 0.96**k / size
            scaled = [(abs(n) or 1.0) ** 2 for n in self._limits]
            prices = [max(0.0, p + step * o / s) for p, o, s in zip(prices, over, scaled, strict=True)]
        return best, bound

    def _walk(self) -> None:
        """Depth first, the most promising option first; without recursion, since there may be many items."""
        stack: list[tuple[int, float, tuple[float, ...], tuple[Option, ...]]] = [(0, 0.0, (0.0,) * len(self._limits), ())]
        constant = sum(p * n for p, n in zip(self._priced, self._limits, strict=True))
        seen = 0
        while stack:
            at, cost, used, options = stack.pop()
            bound = self._bound(at, cost, used, constant)
            if self._best is not None and bound >= self._best[0] - SLACK * max(1.0, abs(self._best[0])):
                continue
            seen += 1
            if seen > self._nodes:
                self._open = min([self._open, bound, *(self._bound(*entry[:3], constant) for entry in stack)])
                return
            if at == len(self._items):
                self._best = (cost, options)
                continue
            for option in reversed(self._items[at]):
                uses = tuple(a + b for a, b in zip(used, option.uses, strict=True))
                if all(u + n <= limit for u, n, limit in zip(uses, self._needs[at + 1], self._limits, strict=True)):
                    stack.append((at + 1, cost + option.cost, uses, (*options, option)))

    def _bound(self, at: int, cost: float, used: tuple[float, ...], constant: float) -> float:
        """What no way to go on from here undercuts."""
        priced = cost + sum(p * u for p, u in zip(self._priced, used, strict=True)) + self._rest[at] - constant
        return max(priced, cost + self._cheapest[at])


def _reduced(option: Option, prices: Sequence[float]) -> float:
    return option.cost + sum(p * u for p, u in zip(prices, option.uses, strict=True))
