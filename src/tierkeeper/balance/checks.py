"""Asks all backends, each in a thread of its own and in its own time.

Whoever hangs delays nobody, and is told when its time is up. It says what was heard and decides nothing.
"""

import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Final

from tierkeeper.balance.asking import Heard, Question, question
from tierkeeper.balance.health import DOUBT_SECONDS, Answer
from tierkeeper.balance.pools import Ask, Node, Service

Key = tuple[str, str]
"""A service's name and its backend's."""
_GRACE_SECONDS: Final = (
    0.1  # after its deadline an asking ends by itself; what has not by then is hung in the system or the driver
)
_STACK_BYTES: Final = 512 * 1024  # of each thread: there may be hundreds, and none of them is deep


@dataclass(frozen=True)
class Report:
    """What was heard of one backend. `lost`: its open session ended first, by itself."""

    key: Key
    heard: Heard
    lost: bool = False


class Checks:
    """The watchers of all backends. One thread calls it."""

    def __init__(self, ask: Callable[..., Question] = question) -> None:
        self._make = ask
        self._watchers: dict[Key, _Watcher] = {}
        self._heard: SimpleQueue[tuple[_Watcher, Report]] = SimpleQueue()
        self._news = threading.Event()

    def follow(self, services: Sequence[Service]) -> None:
        """Watches these from now on, and no others; what stays as it was goes on undisturbed."""
        wanted = {(s.name, n.name): (s.ask, n) for s in services for n in s.nodes}
        for key in [k for k, w in self._watchers.items() if (w.ask, w.node) != wanted.get(k)]:
            self._watchers.pop(key).end()
        for key, (ask, node) in wanted.items():
            if key not in self._watchers:
                self._watchers[key] = _Watcher(key, ask, node, self._make(ask, node), self._tell)

    def take(self) -> list[Report]:
        """What was heard since the last time; one that is over its time is told as such, once."""
        self._news.clear()
        now = time.monotonic()
        found = [w.late(now) for w in self._watchers.values()]
        reports = [r for r in found if r is not None]
        with suppress(Empty):
            while True:
                watcher, report = self._heard.get_nowait()
                if self._watchers.get(report.key) is watcher:
                    reports.append(report)
        return reports

    def pace(self, seconds: Mapping[Key, float]) -> None:
        """How long each rests between two askings."""
        for key, pause in seconds.items():
            if (watcher := self._watchers.get(key)) is not None:
                watcher.rest(pause)

    def due_at(self, key: Key) -> float | None:
        """When a backend is asked next, on the monotonic clock; None while it is being asked."""
        watcher = self._watchers.get(key)
        return None if watcher is None or watcher.began is not None else watcher.ended_at + watcher.pause

    def wait(self, seconds: float) -> None:
        """Waits until something was heard, at most so long. What was heard stays to be taken."""
        self._news.wait(seconds)

    def _tell(self, watcher: "_Watcher", report: Report) -> None:
        self._heard.put((watcher, report))
        self._news.set()

    def nudge(self) -> None:
        """Ends a `wait` of another thread."""
        self._news.set()

    def close(self) -> None:
        """Ends all. One that hangs in the system ends with the process."""
        while self._watchers:
            self._watchers.popitem()[1].end()


class _Watcher:
    """One backend and its thread."""

    def __init__(self, key: Key, ask: Ask, node: Node, asked: Question, tell: "Callable[[_Watcher, Report], None]") -> None:
        self.key, self.ask, self.node = key, ask, node
        self.pause, self.ended_at = DOUBT_SECONDS, time.monotonic()  # until the brain says how often
        self.began: float | None = None
        self._timeout = ask.timeout_seconds
        self._question, self._tell = asked, tell
        self._told_late = False
        self._ending = False
        self._lock = threading.Lock()
        self._wake, self._woken = socket.socketpair()
        before = threading.stack_size(_STACK_BYTES)
        self._thread = threading.Thread(target=self._run, name=f"check {key[1]}", daemon=True)
        self._thread.start()
        threading.stack_size(before)

    def rest(self, seconds: float) -> None:
        shorter = seconds < self.pause
        self.pause = seconds
        if shorter:
            self._nudge()

    def late(self, now: float) -> Report | None:
        """Told where the asking is over its time; its own answer comes to nothing then."""
        with self._lock:
            if self.began is None or self._told_late or now - self.began < self._timeout + _GRACE_SECONDS:
                return None
            self._told_late, began = True, self.began
        self._question.abort()  # the asking may end with it, and have begun no other
        return Report(self.key, Heard(Answer(False, f"it gave no answer within {self._timeout:g} s", now - began)))

    def end(self) -> None:
        self._ending = True
        self._nudge()
        self._question.abort()

    def _nudge(self) -> None:
        with suppress(OSError):
            self._wake.send(b"x", socket.MSG_DONTWAIT)

    def _run(self) -> None:
        lost = False
        while not self._ending:
            with self._lock:
                self.began, self._told_late = time.monotonic(), False
            heard = self._question.ask()
            with self._lock:
                late, self.began, self.ended_at = self._told_late, None, time.monotonic()
            if not late:
                self._tell(self, Report(self.key, heard, lost))
            lost = self._rest()
        self._question.close()
        self._wake.close()
        self._woken.close()

    def _rest(self) -> bool:
        """Until it is time again, or the open session has something to say; whether that was it."""
        while not self._ending:
            left = self.ended_at + self.pause - time.monotonic()
            if left <= 0:
                return False
            poll = select.poll()
            poll.register(self._woken, select.POLLIN)
            watched = self._question.watched()
            if watched is not None:
                poll.register(watched, select.POLLIN)
            for descriptor, _ in poll.poll(left * 1000):
                if descriptor == watched:
                    return True
                self._woken.recv(4096)
        return False
