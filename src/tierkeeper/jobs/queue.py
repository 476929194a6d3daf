"""The queue of jobs on Main: what may be asked of it. The only place that knows the library, beside `connector`."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, TypeVar

import psycopg
from procrastinate import App, BaseRetryStrategy, JobContext, RetryDecision, exceptions
from procrastinate.jobs import Job as QueuedJob
from procrastinate.jobs import Status
from procrastinate.worker import Worker

from tierkeeper.jobs.connector import Connector
from tierkeeper.jobs.model import LATER, PART, PARTS, WORK, Again, Job, Timing
from tierkeeper.jobs.performing import Performer
from tierkeeper.jobs.plan import DEATHS, Due
from tierkeeper.kernel.errors import NotNow
from tierkeeper.postgres.link import Link

_ID: Final = "tierkeeper"
_AT_ONCE: Final = 2  # jobs of one process: the quota manager need not wait for a drill of hours
_PAST: Final = datetime.fromtimestamp(0, UTC)  # of Main's clock, whatever this machine's says: a row that waits holds its lock
_KEPT_HOURS: Final = 30 * 24
T = TypeVar("T")


def _statements() -> dict[str, str]:
    """The library's connector takes texts with its own placeholders."""
    text = (Path(__file__).parent / "sql" / "queue.sql").read_text(encoding="utf-8")
    parts = text.split("-- name: ")[1:]
    return {name.strip(): body for name, _, body in (part.partition("\n") for part in parts)}


_SQL: Final = _statements()


class _Told(BaseRetryStrategy):
    """What the job itself said when it failed.

    Until its time it waits apart, and without its lock: to the library a row that waits goes before all later ones with the same
    lock, so that an archive that is away would keep the quota manager from running for as long.
    """

    def get_retry_decision(self, *, exception: BaseException, job: QueuedJob) -> RetryDecision | None:
        if not isinstance(exception, Again):
            return None
        if exception.seconds <= 0:
            return RetryDecision(retry_at=_PAST)
        at = datetime.now(UTC) + timedelta(seconds=exception.seconds)
        return RetryDecision(retry_at=at, queue=LATER, lock=f"{LATER} {job.task_name}")


@dataclass
class Queue:
    """One process's hold on the queue. All of it runs in one event loop; jobs run in threads."""

    main: Link
    jobs: Sequence[Job]
    performer: Performer
    timing: Timing
    workers: list[Worker] = field(default_factory=list)

    def __post_init__(self) -> None:
        for name in ("procrastinate", "psycopg.pool"):  # what they have to say the jobs tell themselves, without secrets
            logger = logging.getLogger(name)
            logger.propagate = False
            logger.addHandler(logging.NullHandler())
        self.app = App(connector=Connector(self.main))
        for job in self.jobs:
            self.app.task(name=job.name, queue=WORK, lock=job.lock or job.name, pass_context=True, retry=_Told())(self._runs(job))
        self.app.task(name=PART, queue=PARTS)(self.performer.part)

    def _runs(self, job: Job) -> Callable[..., None]:
        def run(context: JobContext, timestamp: int) -> None:
            self.performer.perform(job, datetime.fromtimestamp(timestamp, UTC), context.job.attempts)

        return run

    async def close(self) -> None:
        with suppress(Exception):
            await self.app.close_async()

    async def open(self) -> None:
        """Before all else, in the event loop; it asks nothing of Main."""
        await self.app.open_async()

    async def defer(self, due: Due) -> None:
        """The job's row, once for a due time, whoever asks and how often."""
        timestamp = int(due.at.timestamp())
        lock = self.app.tasks[due.job].lock
        row = QueuedJob(queue=WORK, lock=lock, queueing_lock=None, task_name=due.job, task_kwargs={"timestamp": timestamp})
        await self.app.job_manager.defer_periodic_job(row, _ID, timestamp)

    async def waiting(self) -> set[str]:
        """The jobs that have a row which nobody has begun: it serves a later due time as well."""
        rows = await self.app.connector.execute_query_all_async(_SQL["waiting"], queues=[WORK, LATER])
        return {str(row["task_name"]) for row in rows}

    async def work(self) -> None:
        """Takes jobs until it is told to stop. Raises where Main goes away."""
        await self._worker(WORK, _AT_ONCE)

    async def work_parts(self) -> None:
        """Takes parts of moves until it is told to stop: one at a time, for each has threads of its own."""
        await self._worker(PARTS, 1)

    async def _worker(self, queue: str, at_once: int) -> None:
        worker = Worker(
            self.app,
            queues=[queue],
            name=queue,
            concurrency=at_once,
            fetch_job_polling_interval=self.timing.poll,
            abort_job_polling_interval=self.timing.heartbeat,
            update_heartbeat_interval=self.timing.heartbeat,
            stalled_worker_timeout=self.timing.stalled,
            listen_notify=False,
            delete_jobs="successful" if queue == PARTS else "never",
            install_signal_handlers=False,
        )
        self.workers.append(worker)
        try:
            await worker.run()  # type: ignore[no-untyped-call]
        finally:
            self.workers.remove(worker)

    def stop(self) -> None:
        """No further job is begun; those that run come to their safe end by themselves."""
        for worker in self.workers:
            worker.stop()  # type: ignore[no-untyped-call]

    async def wake(self) -> None:
        """Puts the jobs that are to be tried again by now back among the others, each with its lock."""
        locks = {name: task.lock for name, task in self.app.tasks.items() if task.queue == WORK}
        asked = {"names": list(locks), "locks": list(locks.values()), "queue": WORK, "later": LATER}
        await self.app.connector.execute_query_async(_SQL["wake"], **asked)

    async def sweep(self) -> list[tuple[str, bool]]:
        """Gives the jobs of dead workers to others; each with whether it is run again."""
        manager, found = self.app.job_manager, list[tuple[str, bool]]()
        own = {worker.worker_id for worker in self.workers}
        for job in await manager.get_stalled_jobs(seconds_since_heartbeat=self.timing.stalled):
            if job.worker_id is not None and job.worker_id in own:
                continue  # this machine slept, and works at it still
            # Each death puts it behind the others, by its priority, which so counts them.
            again = job.queue == WORK and job.priority - 1 > -DEATHS
            with suppress(exceptions.ConnectorException):  # another process was first
                if again:
                    await manager.retry_job(job, retry_at=_PAST, priority=job.priority - 1)
                else:
                    await manager.finish_job(job, status=Status.FAILED, delete_job=job.queue == PARTS)
                found.append((job.task_name, again))
        return found

    async def forget(self) -> None:
        """Deletes the rows of jobs that ended long ago."""
        manager = self.app.job_manager
        await manager.delete_old_jobs(_KEPT_HOURS, include_failed=True, include_cancelled=True, include_aborted=True)

    async def is_empty(self) -> bool:
        """Whether no job is due that this process could run, and it runs none."""
        own = [worker.worker_id for worker in self.workers if worker.worker_id is not None]
        row = await self.app.connector.execute_query_one_async(_SQL["is_empty"], queue=WORK, own=own)
        return bool(row["is_empty"])

    async def others(self) -> int:
        """How many other processes take parts now."""
        row = await self.app.connector.execute_query_one_async(_SQL["live"], stalled=self.timing.stalled)
        others = int(row["workers"]) - sum(worker.worker_id is not None for worker in self.workers)
        return max(-(-others // 2), 0)  # each process has two

    async def offer(self, parts: Iterable[Mapping[str, Any]]) -> list[int]:
        """A row for each part; their ids."""
        task = self.app.tasks[PART]
        rows: list[Any] = [{"document": dict(part)} for part in parts]
        return await task.batch_defer_async(*rows)

    async def left(self, ids: Sequence[int]) -> set[int]:
        """Those that wait, or that a live worker is at."""
        rows = await self.app.connector.execute_query_all_async(_SQL["left"], ids=list(ids), stalled=self.timing.stalled)
        return {int(row["id"]) for row in rows}

    async def withdraw(self, ids: Iterable[int]) -> None:
        """Those that nobody has begun are gone."""
        for one in ids:
            await self.app.job_manager.cancel_job_by_id_async(one, delete_job=True)


@dataclass(frozen=True)
class Shared:
    """Implements `kernel.ports.Sharing` for a job's thread, over the queue in its event loop."""

    queue: Queue
    loop: asyncio.AbstractEventLoop

    def helpers(self) -> int:
        try:
            return self.ask(self.queue.others())
        except NotNow:
            return 0  # then it goes on alone

    def offer(self, parts: Sequence[Mapping[str, Any]]) -> "Offered":
        return Offered(self, self.ask(self.queue.offer(parts)))

    def ask(self, question: Coroutine[Any, Any, T]) -> T:
        """The answer, waited for in a job's thread. Raises NotNow where Main is away."""
        try:
            return asyncio.run_coroutine_threadsafe(question, self.loop).result()
        except (exceptions.ConnectorException, psycopg.Error) as error:
            raise NotNow("tiers.main", "its queue of jobs does not answer", "Run it again when Main is back") from error


@dataclass(frozen=True)
class Offered:
    """Implements `kernel.ports.Offer`."""

    shared: Shared
    ids: Sequence[int]

    def left(self) -> list[int]:
        found = self.shared.ask(self.shared.queue.left(self.ids))
        return [at for at, one in enumerate(self.ids) if one in found]

    def withdraw(self) -> None:
        with suppress(NotNow):  # whoever takes one finds that its run is over
            self.shared.ask(self.shared.queue.withdraw(self.ids))
