"""The demo on a machine that is busy with something else."""

from typing import Any, cast

import pytest

from tierkeeper.compose import Keeper
from tierkeeper.demo import run
from tierkeeper.kernel.errors import NotNow


class Busy:
    """Answers once it has said "not now" `times` times."""

    def __init__(self, times: int) -> None:
        self.times, self.asked = times, 0

    def query(self, statement: str) -> Any:
        self.asked += 1
        if self.asked <= self.times:
            raise NotNow("tiers.core", "it took longer than query.timeout", "Ask for less, or raise query.timeout")
        return statement


@pytest.mark.parametrize("times", [0, 1, run.QUESTIONS - 1])
def test_the_question_is_asked_again(times: int) -> None:
    busy = Busy(times)
    assert "GROUP BY" in str(run._asked(cast("Keeper", busy)))
    assert busy.asked == times + 1


def test_at_last_the_demo_says_that_it_took_too_long() -> None:
    busy = Busy(run.QUESTIONS)
    with pytest.raises(NotNow, match=r"query\.timeout"):
        run._asked(cast("Keeper", busy))
    assert busy.asked == run.QUESTIONS
