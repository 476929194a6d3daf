"""`tierkeeper run` and `tierkeeper worker`: the schedule, the queue and what they do while Main is away.

The only part that is asynchronous, since the queue's library is: whatever works at rows runs in a thread and asks the stop flag.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

import psycopg
from procrastinate import exceptions

from tierkeeper.jobs import plan
from tierkeeper.jobs.lead import Leadership
from tierkeeper.jobs.memory import Memory
from tierkeeper.jobs.model import Again, GivenUp, Job, Timing
from tierkeeper.jobs.performing import Performer, Tell
from tierkeeper.jobs.plan import Due
from tierkeeper.jobs.queue import Queue
from tierkeeper.kernel import cron
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import Exit, NotNow, TierkeeperError
from tierkeeper.kernel.log import Log
from tierkeeper.kernel.ports import ABANDONED, Stop
from tierkeeper.kernel.results import RunEvent, told

if TYPE_CHECKING:
    pass

_log = Log()
_LOOK_SECONDS: Final = 0.1  # between two looks at the stop flag
_FORGET_SECONDS: Final = 3600


@contextmanager
def _asking_main() -> Iterator[None]:
    """Raises NotNow where Main does not answer, whoever has asked it."""
    try:
        yield
    except (psycopg.Error, exceptions.ConnectorException, OSError) as error:
        cause = f"its queue of jobs does not answer ({type(error.__cause__ or error).__name__})"
        remedy = "Check that it runs, then run again; what was begun goes on there"
        raise NotNow("tiers.main", cause, remedy) from error
    except TierkeeperError as error:
        if error.exit_code is not Exit.NOT_NOW or isinstance(error, NotNow):
            raise
        raise NotNow(error.place, error.cause, error.remedy) from error  # several that were found together


@dataclass
class Service:
    """One process. `crons` has the jobs that are on; `prepare` makes the queue on Main where it is missing."""

    queue: Queue
    leadership: Leadership
    memory: Memory
    performer: Performer
    jobs: Sequence[Job]
    crons: Mapping[str, str]
    prepare: Callable[[], object]
    tell: Tell
    stop: Stop
    clock: Clock
    timing: Timing
    beside: Mapping[str, Callable[[Stop], None]] = field(default_factory=dict)
    """What goes on all the time, each in a thread of its own and by no lease: it is this machine's. It ends when asked to."""
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _handled: dict[str, datetime] = field(default_factory=dict)
    _watching: dict[str, asyncio.Task[float | None]] = field(default_factory=dict)
    _again: dict[str, float] = field(default_factory=dict)
    _said: str = ""

    async def run(self) -> None:
        """Until it is told to stop: leads, or stands by until it may. What is beside that neither holds it up nor ends it."""
        going = [asyncio.create_task(self._go_on(name, work)) for name, work in self.beside.items()]
        try:
            await self._serve(self._schedule())
        finally:
            self._stopping.set()
            await asyncio.gather(*going)

    async def work(self) -> None:
        """Until it is told to stop: takes jobs and parts, and leads nothing."""
        await self._serve(self._begin_work())

    async def _go_on(self, name: str, work: Callable[[Stop], None]) -> None:
        """Whatever ends it is told, and it is begun again, unless the service ends."""
        failures, began = 0, self.clock.monotonic()
        while not self._stopping.is_set():
            try:
                with ThreadPoolExecutor(1, name) as own:  # the others' threads are for jobs, which end
                    await asyncio.get_running_loop().run_in_executor(own, work, self._why_end)
            except TierkeeperError as error:
                for one in told([error]):
                    self._tell(name, f"{one.place}: {one.cause}; it is tried again, and the schedule goes on", error=one)
            except Exception as error:  # noqa: BLE001 - the schedule is not to end with it
                _log.exception("what goes on beside the schedule failed", name=name)
                self._tell(name, f"an unexpected {type(error).__name__}: this is a fault of tierkeeper; it is tried again")
            failures = 0 if self.clock.monotonic() - began > self.timing.back_off_most else failures + 1
            await self._pause(plan.back_off_seconds(max(1, failures), self.timing))
            began = self.clock.monotonic()

    def _why_end(self) -> str | None:
        return self.stop() or (ABANDONED if self._stopping.is_set() else None)

    async def _begin_work(self) -> None:
        failures = 0
        while not self._stopping.is_set():
            try:
                with _asking_main():
                    await asyncio.to_thread(self.prepare)
            except NotNow as error:
                failures += 1
                self._say_away(error)
                await self._pause(plan.back_off_seconds(failures, self.timing))
            else:
                self._say("works", "takes jobs, and parts of large moves")
                await self._work_all()

    async def once(self) -> None:
        """What is due now, and what waits in the queue. Raises NotNow where another process leads, or Main is away."""
        await self.queue.open()
        watcher = asyncio.create_task(self._until_stopped())
        try:
            away = await self._lead_once()
            if away is None and not self.leadership.has_it:
                raise NotNow("tierkeeper run", self.leadership.heard_of or "another run has it", "That one does what is due")
            await self._turn(away is None)
            if away is None:
                await self._empty()
            await asyncio.gather(*self._watching.values())
            if away is not None:
                raise away
            self._say("ended", "nothing more is due", next=self._next())
        finally:
            watcher.cancel()
            await asyncio.to_thread(self.leadership.give_back)
            await self.queue.close()

    async def _lead_once(self) -> NotNow | None:
        """The error where Main is away."""
        try:
            with _asking_main():
                await asyncio.to_thread(self.prepare)
                await asyncio.to_thread(self.leadership.look)
                if self.leadership.has_it:
                    await self._remember()
                    await self.queue.wake()
                    await self.queue.sweep()
        except NotNow as error:
            return error
        return None

    async def _empty(self) -> None:
        """Works the queue until nothing in it is due. Parts are taken until then: a job may offer some at any time.

        A job may take hours, in which whoever calls this on a timer is not called again: what watches goes on meanwhile.
        """
        working = [asyncio.create_task(one) for one in (self.queue.work(), self.queue.work_parts())]
        with _asking_main():
            try:
                while not self._stopping.is_set() and not any(one.done() for one in working):
                    await self._pause(self.timing.poll)
                    await asyncio.to_thread(self.leadership.look)
                    await self._turn(main_is_there=False)
                    await self.queue.wake()
                    if await self.queue.is_empty():
                        break
            finally:
                while not all(one.done() for one in working):
                    self.queue.stop()
                    await asyncio.sleep(_LOOK_SECONDS)
            for one in working:
                one.result()

    async def _serve(self, duty: Awaitable[None]) -> None:
        await self.queue.open()
        watcher = asyncio.create_task(self._until_stopped())
        try:
            await duty
            with suppress(Exception):  # told when it happened
                await asyncio.gather(*self._watching.values())
        finally:
            watcher.cancel()
            await asyncio.to_thread(self.leadership.give_back)
            await self.queue.close()

    async def _until_stopped(self) -> None:
        while True:
            if self.stop() is not None:
                self._stopping.set()
                self.queue.stop()  # again and again: one that was just beginning has not heard it
            await asyncio.sleep(_LOOK_SECONDS)

    async def _schedule(self) -> None:
        """The schedule's turns. Whoever has led works the queue from then on, also where another leads by now."""
        working: asyncio.Task[None] | None = None
        failures, prepared, knows = 0, False, False  # what was handled before
        while not self._stopping.is_set():
            try:
                with _asking_main():
                    if not prepared:
                        await asyncio.to_thread(self.prepare)
                        prepared = True
                    if await asyncio.to_thread(self.leadership.look):
                        if self.leadership.has_it and not knows:
                            await self._remember()
                            working = working or asyncio.create_task(self._work_all())
                        failures, knows = 0, self.leadership.has_it
                        self._say_who_leads()
            except NotNow as error:
                failures += 1
                self.leadership.leave_alone(plan.back_off_seconds(failures, self.timing))
                self._say_away(error)
            if working is not None and working.done():
                working.result()
            await self._turn(knows and failures == 0)
            await self._pause(self.timing.turn)
        if working is not None:
            await working

    def _say_who_leads(self) -> None:
        if self.leadership.has_it:
            self._say("leads", "has the lease, and runs what is due", next=self._next())
        else:
            self._say("stands by", f"{self.leadership.heard_of}; this one takes over when that ends")

    async def _remember(self) -> None:
        """What was handled by whoever led before; a job of the queue that nobody has known is due from now on."""
        begin = [job.name for job in self.jobs if job.name in self.crons and not job.watches]
        known = await asyncio.to_thread(self.memory.read, begin, self.clock.now())
        self._handled = {**known, **{job: at for job, at in self._handled.items() if at > known.get(job, at)}}

    async def _turn(self, main_is_there: bool) -> None:
        """One look at the schedule. While Main is away only what watches goes on, unless another process may do so."""
        leads = self.leadership.has_it
        if not leads and (main_is_there or self.leadership.may_be_led):
            return
        now = self.clock.now()
        for job in self.jobs:
            if job.name not in self.crons:
                continue
            found = plan.due({job.name: self.crons[job.name]}, self._handled, now)
            if job.watches:
                self._watch(job, found)
            elif leads and main_is_there and job.name in self._handled:
                for due in found:
                    await self._defer(due)

    async def _defer(self, due: Due) -> None:
        try:
            with _asking_main():
                if due.job not in await self.queue.waiting():
                    await self.queue.defer(due)
                await self._note(due)
        except NotNow as error:
            self._say_away(error)

    async def _note(self, due: Due) -> None:
        await asyncio.to_thread(self.memory.handled, due.job, due.at)
        self._handled[due.job] = due.at

    def _watch(self, job: Job, found: Sequence[Due]) -> None:
        """Begins what watches, if it is due and has ended; one after the other for a job, beside all others."""
        before = self._watching.get(job.name)
        if before is not None and not before.done():
            return
        due = found[0] if found else None
        if due is None and self._again.get(job.name, float("inf")) > self.clock.monotonic():
            return
        at = due.at if due is not None else self._handled[job.name]
        self._handled[job.name] = at
        self._watching[job.name] = asyncio.create_task(self._watch_one(job, at, retried=due is None))

    async def _watch_one(self, job: Job, due_at: datetime, *, retried: bool) -> float | None:
        self._again.pop(job.name, None)
        with suppress(GivenUp):
            try:
                await asyncio.to_thread(self.performer.perform, job, due_at, int(retried))
            except Again as again:
                self._again[job.name] = self.clock.monotonic() + again.seconds
        if self.leadership.has_it:
            with suppress(TierkeeperError), _asking_main():
                await asyncio.to_thread(self.memory.handled, job.name, due_at)
        return None

    async def _work_all(self) -> None:
        """Jobs, parts and the look for dead workers, each for as long as Main answers, and again when it is back."""
        duties = (self.queue.work, self.queue.work_parts, self._sweep)
        await asyncio.gather(*(self._keep_on(duty) for duty in duties))

    async def _keep_on(self, duty: Callable[[], Awaitable[None]]) -> None:
        failures, began = 0, self.clock.monotonic()
        while not self._stopping.is_set():
            try:
                with _asking_main():
                    await duty()
            except NotNow as error:
                self._say_away(error)
            if self.clock.monotonic() - began > self.timing.back_off_most:
                failures = 0
            began, failures = self.clock.monotonic(), failures + 1
            await self._pause(plan.back_off_seconds(failures, self.timing))

    async def _sweep(self) -> None:
        forgot_at = self.clock.monotonic()
        while not self._stopping.is_set():
            await self.queue.wake()
            for job, again in await self.queue.sweep():
                words = "it is run by another" if again else "it is not run again before its next time"
                self._tell("stalled", f"the worker that ran it gives no sign of life; {words}", job=job)
            if self.clock.monotonic() - forgot_at > _FORGET_SECONDS:
                forgot_at = self.clock.monotonic()
                await self.queue.forget()
            await self._pause(self.timing.sweep)

    async def _pause(self, seconds: float) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    def _next(self) -> dict[str, datetime]:
        now = self.clock.now()
        return {job.name: cron.following(self.crons[job.name], now) for job in self.jobs if job.name in self.crons}

    def _say_away(self, error: NotNow) -> None:
        self._say("away", f"Main does not answer ({error.cause}); what moves rows waits, what watches goes on")

    def _say(self, event: str, words: str, *, next: dict[str, datetime] | None = None) -> None:
        """Told when it changes, not at every turn."""
        if self._said != event:
            self._said = event
            self._tell(event, words, next=next or {})

    def _tell(self, event: str, words: str, **more: object) -> None:
        self.tell(RunEvent.model_validate({"at": self.clock.now(), "event": event, "told": words, **more}))


def exit_code(performer: Performer, *, once: bool) -> Exit:
    """Of what has run. A service that was told to stop says only whether something was cut short."""
    if performer.interrupted:
        return Exit.NOT_NOW
    found = performer.codes if once else ()
    return next((c for c in (Exit.USAGE, Exit.FAILED, Exit.NOT_NOW) if c in found), Exit.DONE)
