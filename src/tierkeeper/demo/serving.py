"""The demo that stays: after the cycle its tiers are anybody's who names their configuration, with a page that watches them.

It does nothing to them by itself. When the block ends nothing is left, no process and no folder.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from datetime import UTC, datetime

from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.demo.counting import Counting
from tierkeeper.demo.course import until_yesterday
from tierkeeper.demo.run import Stage, cycle, staged
from tierkeeper.kernel.ports import Progress
from tierkeeper.kernel.results import BoardProof, BoardResult, DemoResult, ServedDemoResult

Page = Callable[[Callable[[], BoardResult]], AbstractContextManager[str]]
"""Serves what it is given to look at while its block runs, and gives the page's address."""


@contextmanager
def serving(progress: Progress, page: Page) -> Iterator[ServedDemoResult]:
    """Runs the cycle as of two weeks ago, then keeps all of it up while the block runs. Raises what its parts raise."""
    with staged(until_yesterday(datetime.now(UTC)), progress) as stage:
        result = cycle(stage)
        counted_at = datetime.now(UTC)
        for name, server in stage.online.items():  # whoever asks for an estimate next finds statistics of what is there
            with closing(server.link(name).connect("demo")) as conn:
                conn.execute("ANALYZE")
        first = _proof(result, stage, counted_at)
        counting = Counting(
            lambda: _keeper(stage).board(),
            lambda: stage.original.lost_and_doubled(stage.rows(_keeper(stage)).values()),
            first,
        )
        try:
            with page(counting.board) as url:
                environment = {"TIERKEEPER_CONFIG": str(stage.config)}
                yield ServedDemoResult(demo=result, config=str(stage.config), environment=environment, dashboard=url)
        finally:
            counting.end()


def _keeper(stage: Stage) -> Keeper:
    """By the real clock."""
    return open_keeper(stage.settings, environment=stage.environment)


def _proof(result: DemoResult, stage: Stage, counted_at: datetime) -> BoardProof:
    return BoardProof(
        rows=stage.original.table.num_rows,
        lost=result.lost,
        doubled=result.doubled,
        counted_at=counted_at,
        seconds=result.seconds["proof"],
        current=True,
    )
