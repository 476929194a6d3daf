"""The watchers of backends: what hangs is told in time, whatever its asking does meanwhile."""

import threading
import time

from tierkeeper.balance.asking import Heard
from tierkeeper.balance.checks import Checks
from tierkeeper.balance.health import Answer
from tierkeeper.balance.model import Backend
from tierkeeper.balance.pools import Ask, Node, Service


class Hung:
    """Answers when it is given up, and not before. Giving it up takes long enough for the asking to have ended."""

    def __init__(self) -> None:
        self.over = threading.Event()

    def ask(self) -> Heard:
        self.over.wait(5)
        return Heard(Answer(True, "too late"))

    def watched(self) -> int | None:
        return None

    def abort(self) -> None:
        self.over.set()
        time.sleep(0.1)

    def close(self) -> None:
        self.over.set()


def test_one_that_answers_when_it_is_given_up_is_told_as_late_once() -> None:
    checks = Checks(lambda ask, node: Hung())  # noqa: ARG005 - by any question
    node = Node(Backend("a:1", "a", 1), "a:1")
    checks.follow([Service("s", Ask("tcp", timeout_seconds=0.05), (node,), ())])
    checks.pace({("s", "a:1"): 30.0})
    heard = []
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        heard += checks.take()
        checks.wait(0.02)
    checks.close()
    assert [r.heard.answer.ok for r in heard] == [False]
    assert "no answer within 0.05 s" in heard[0].heard.answer.why
