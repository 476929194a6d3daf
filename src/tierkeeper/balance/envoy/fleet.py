"""The Envoys of one folder: the one that serves, and those before it that end what they began."""

import json
from pathlib import Path
from typing import Final

from tierkeeper.balance.envoy import limits, process
from tierkeeper.balance.envoy.admin import Admin
from tierkeeper.balance.envoy.documents import Document, Layout
from tierkeeper.balance.envoy.process import Running
from tierkeeper.kernel.clock import Clock
from tierkeeper.kernel.errors import NotNow, TierkeeperError

_LOOK_SECONDS: Final = 0.005
_BUSY: Final = r"^(http\.p[0-9a-f]+\.downstream_rq_active|listener\.tcp_p[0-9a-f]+\.downstream_cx_active)$"


class Fleet:
    """Starts, takes over, succeeds and ends them."""

    def __init__(self, layout: Layout, admin: Admin, clock: Clock, concurrency: int) -> None:
        self._layout, self._admin, self._clock = layout, admin, clock
        self._concurrency = concurrency
        self._serving: Running | None = None
        self._leaving: list[Running] = []
        self._restarts = 0

    def facts(self) -> dict[str, str | int]:
        running = self._serving
        told: dict[str, str | int] = {"restarts": self._restarts}
        return {**told, "process": running.pid, "epoch": running.epoch} if running is not None else told

    def pid(self) -> int | None:
        return self._serving.pid if self._serving is not None else None

    def adopt(self) -> bool:
        """Takes over the Envoy of this folder, if one runs and answers. One that does not answer is ended."""
        running = process.remembered(self._layout) or process.find(self._layout)
        if running is None:
            return False
        try:
            self._until_ready(running)
        except NotNow:
            process.end(running)
            return False
        process.remember(self._layout, running)
        self._serving = running
        return True

    def start(self, bootstrap: Document) -> None:
        """Starts the first one. Raises NotNow where it does not come up."""
        process.forget(self._layout)
        self._write(bootstrap)
        self._spawn()

    def succeed(self, bootstrap: Document) -> bool:
        """Lets another Envoy take over from the running one if that has another bootstrap or version; it drains, and ends."""
        server = self._admin.server()
        if self._bootstrap() == json.dumps(bootstrap) and server.get("version") == process.version():
            return False
        if self._serving is None:
            return False
        self._write(bootstrap)
        before = self._serving
        workers = int(server.get("command_line_options", {}).get("concurrency", self._concurrency))
        self._leaving.append(before)
        self._serving = process.spawn(self._layout, before.epoch + 1, workers)
        try:
            self._until_ready(self._serving)
        except NotNow:
            self.end()
            self._spawn()
        return True

    def revive(self) -> str | None:
        """Starts Envoy again where it has died, and says so. Reaps those that left."""
        self._leaving = [left for left in self._leaving if process.alive(left)]
        if self._serving is not None and process.alive(self._serving):
            return None
        name = f" (process {self._serving.pid})" if self._serving is not None else ""
        told = process.log_tail(self._layout)
        self._restarts += 1
        why = f" ({told})" if told else ""
        try:
            self._spawn()
        except TierkeeperError as error:
            return f"Envoy{name} has died{why} and does not start again: {error.cause}"
        return f"Envoy{name} had died{why} and was started again"

    def drain_and_end(self) -> None:
        """Takes nothing new, waits for what is under way, then ends all of them."""
        try:
            self._admin.ask("/healthcheck/fail", "POST")  # answers say `Connection: close` from now on
            self._admin.ask("/drain_listeners", "POST")
            end = self._clock.monotonic() + limits.STOP_SECONDS
            while self._clock.monotonic() < end and any(self._admin.stats(_BUSY).values()):
                self._clock.sleep(10 * _LOOK_SECONDS)
        except NotNow:
            pass  # it is dead already, or nearly
        self.end()

    def end(self) -> None:
        """Ends all Envoys of this folder and removes what they leave."""
        if self._serving is not None:
            process.end(self._serving)
        for running in self._leaving:
            process.end(running)
        while (other := process.find(self._layout)) is not None:
            process.end(other)
        self._serving, self._leaving = None, []
        process.forget(self._layout)

    def _spawn(self) -> None:
        self._serving = process.spawn(self._layout, 0, self._concurrency)
        self._until_ready(self._serving)

    def _until_ready(self, running: Running) -> None:
        """Returns when this very process answers and serves. Raises NotNow."""
        end = self._clock.monotonic() + limits.READY_SECONDS
        while self._clock.monotonic() < end and process.alive(running):
            try:
                server = self._admin.server()
                epoch = int(server.get("command_line_options", {}).get("restart_epoch", 0))
                if epoch == running.epoch and server.get("state") == "LIVE":
                    return
            except (NotNow, ValueError):
                pass
            self._clock.sleep(_LOOK_SECONDS)
        tail = process.log_tail(self._layout) or "it says nothing"
        raise NotNow("balance", f"Envoy does not come up: {tail}", f"Its log is {self._layout.log}")

    def _bootstrap(self) -> str:
        try:
            return Path(self._layout.bootstrap).read_text()
        except OSError:
            return ""

    def _write(self, bootstrap: Document) -> None:
        beside = Path(f"{self._layout.bootstrap}.new")
        beside.write_text(json.dumps(bootstrap))
        beside.rename(self._layout.bootstrap)
