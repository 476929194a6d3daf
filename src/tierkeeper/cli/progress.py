"""How far long work is, on a terminal; nothing at all where stderr is none."""

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn


class TerminalProgress:
    """A `kernel.ports.Progress`: one line for each kind of work, safe to call from several threads."""

    def __init__(self, console: Console) -> None:
        self._shown = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._started = False

    def __call__(self, what: str, done: int, total: int | None) -> None:
        with self._lock:
            if not self._started:
                self._shown.start()
                self._started = True
            task = self._tasks.get(what)
            if task is None:
                task = self._tasks[what] = self._shown.add_task(what, total=total)
        self._shown.update(task, completed=done, total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def clear(self) -> None:
        """Takes the lines away: what is printed while they stand is overwritten. A later call brings them back."""
        with self._lock:
            if self._started:
                self._shown.stop()
                self._started = False
