"""Puts a process of `run` or `worker` together and runs it to its end."""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import Settings, folder
from tierkeeper.jobs.changed import Changed
from tierkeeper.jobs.lead import Leadership
from tierkeeper.jobs.memory import Memory
from tierkeeper.jobs.model import Job, Timing
from tierkeeper.jobs.performing import Performer, Tell
from tierkeeper.jobs.queue import Queue, Shared
from tierkeeper.jobs.service import Service, exit_code
from tierkeeper.jobs.table import JOBS
from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import Exit
from tierkeeper.kernel.ports import Stop
from tierkeeper.postgres.keeping import sharing

Role = Literal["run", "once", "worker"]


def start(
    role: Role,
    settings: Settings,
    *,
    tell: Tell,
    stop: Stop,
    jobs: Sequence[Job] = JOBS,
    clock: Clock | None = None,
    timing: Timing | None = None,
    environment: Mapping[str, str] | None = None,
    beside: Mapping[str, Callable[[Stop], None]] | None = None,
    read: Callable[[], Settings] | None = None,
    **more: Any,
) -> Exit:
    """Runs until `stop` says why it must end; `once` until nothing is due. `more` goes to `open_keeper`.

    Raises NotNow where `once` finds another process at it or Main away, and what keeps it from beginning: a bad address, a queue
    of another version. From then on an error of a job is the job's, and Main may go and come back. `beside` goes on in threads
    while `run` does. `read` gives the settings as they are by now: that they have changed is told.
    """
    time = clock or SystemClock()
    pace = timing or Timing()
    given = os.environ if environment is None else environment

    async def serve() -> Exit:
        main, loop = settings.links(folder.pins(given))["main"], asyncio.get_running_loop()

        changed = Changed(settings, read or (lambda: settings), tell, time)

        def keeper() -> Keeper:
            changed.look()
            return open_keeper(settings, clock=time, stop=stop, environment=given, sharing=Shared(queue, loop), **more)

        memory = Memory(main)
        performer = Performer(keeper, tell, memory.ended, stop=stop, clock=time, timing=pace)
        queue = Queue(main, jobs, performer, pace)
        service = Service(
            queue=queue,
            leadership=Leadership(main, time, pace.renew, pace.lease),
            memory=memory,
            performer=performer,
            jobs=jobs,
            crons=settings.schedule.crons(),
            prepare=lambda: keeper().set_up_jobs(),
            tell=tell,
            stop=stop,
            clock=time,
            timing=pace,
            beside=beside or {},
        )
        await {"run": service.run, "once": service.once, "worker": service.work}[role]()
        return exit_code(performer, once=role == "once")

    with sharing("jobs"):  # those that are due at the same minute
        return asyncio.run(serve())
