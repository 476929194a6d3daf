"""How far long work is, on a terminal; nothing at all where stderr is none."""

import sys
import threading
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID


class TerminalProgress:
    """A `kernel.ports.Progress`: one line for each kind of work, safe to call from several threads."""

    def __init__(self, console: Callable[[], "Console"]) -> None:
        """`console`: asked for, once, where stderr is a terminal."""
        self._console = console
        self._seen = sys.stderr.isatty()
        self._shown: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lock = threading.Lock()
        self._started = False

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if not self._seen:
            return
        with self._lock:
            shown = self._shown = self._shown or _lines(self._console())
            if not self._started:
                shown.start()
                self._started = True
            task = self._tasks.get(what)
            if task is None:
                task = self._tasks[what] = shown.add_task(what, total=total)
        shown.update(task, completed=done, total=total)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.clear()

    def clear(self) -> None:
        """Takes the lines away: what is printed while they stand is overwritten. A later call brings them back."""
        with self._lock:
            if self._shown is not None and self._started:
                self._shown.stop()
                self._started = False


def _lines(console: "Console") -> "Progress":
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
