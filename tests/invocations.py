"""Events as AWS sends them, and invocations: a handler in a process of its own that is killed at its limit, as at AWS Lambda."""

import faulthandler
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LAST_SECONDS = 0.2

RULE = {
    "version": "0",
    "id": "cdc73f9d-aea9-11e3-9d5a-835b769c0d9c",
    "detail-type": "Scheduled Event",
    "source": "aws.events",
    "account": "123456789012",
    "time": "2026-11-01T04:00:00Z",
    "region": "eu-central-1",
    "resources": ["arn:aws:events:eu-central-1:123456789012:rule/tierkeeper-weekly"],
    "detail": {},
}
"""A rule of EventBridge."""
SCHEDULER = {
    **RULE,
    "source": "aws.scheduler",
    "resources": ["arn:aws:scheduler:eu-central-1:123456789012:schedule/default/tierkeeper-weekly"],
    "detail": "{}",
}
"""EventBridge Scheduler, without an input of its own."""
REQUEST = {
    "version": "2.0",
    "routeKey": "$default",
    "rawPath": "/",
    "rawQueryString": "",
    "headers": {"host": "abc.lambda-url.example"},
    "requestContext": {"http": {"method": "GET", "path": "/", "sourceIp": "203.0.113.7"}, "stage": "$default"},
    "isBase64Encoded": False,
}
"""A function URL."""


class Context:
    """AWS Lambda's, of an invocation that began at `began` (monotonic) and has `seconds`."""

    def __init__(self, began: float, seconds: float) -> None:
        self._until = began + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(int((self._until - time.monotonic()) * 1000), 0)


@dataclass(frozen=True)
class Invocation:
    """What came of one: its answer, or the text of what it raised; `killed` where the limit came first."""

    answer: Mapping[str, Any]
    seconds: float
    killed: bool
    log: str

    @property
    def raised(self) -> str | None:
        """The error's text."""
        return self.answer.get("text") if "raised" in self.answer else None


def invoke(
    module: str, event: object, environment: Mapping[str, str], folder: Path, seconds: float, *, cold: bool = True
) -> Invocation:
    """Invokes a root module's handler in a new process, which is killed when it has lived for `seconds`.

    With `cold` it has its imports still before it, which count.
    """
    out, log = folder / "answer.json", folder / "log.txt"
    out.unlink(missing_ok=True)
    log.write_bytes(b"")
    began = time.monotonic()
    asked = (module, json.dumps(event), began, seconds, str(out))
    if cold:
        killed = _cold(asked, {**environment, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])}, folder, log)
    else:
        import processes

        process = processes.forks().Process(target=_warm, args=(asked, dict(environment), str(folder), str(log)))
        process.start()
        process.join(max(began + seconds - time.monotonic(), 0.01))
        killed = process.exitcode is None
        process.kill()
        process.join()
        assert killed or process.exitcode == 0, log.read_text()
    took = time.monotonic() - began
    answer = json.loads(out.read_text()) if not killed else {}
    return Invocation(answer, took, killed, log.read_text(errors="replace"))


def _cold(asked: tuple[str, str, float, float, str], environment: Mapping[str, str], folder: Path, log: Path) -> bool:
    command = [sys.executable, "-c", "import invocations, sys; invocations.run(*sys.argv[1:])", *map(str, asked)]
    with log.open("ab") as said:
        process = subprocess.Popen(
            command, env=environment, cwd=folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, start_new_session=True
        )
        try:
            process.wait(max(asked[2] + asked[3] - time.monotonic(), 0.01))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            return True
    assert process.returncode == 0, log.read_text()
    return False


def _warm(asked: tuple[str, str, float, float, str], environment: dict[str, str], folder: str, log: str) -> None:
    for number in (1, 2):
        os.dup2(os.open(log, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [str(ROOT)]
    run(*asked)


def run(module: str, event: str, began: float | str, seconds: float | str, out: str) -> None:
    """In the process of the function: what its runtime does. What is at work shortly before it is killed is logged."""
    context = Context(float(began), float(seconds))
    faulthandler.dump_traceback_later(max(float(began) + float(seconds) - time.monotonic() - LAST_SECONDS, 0.01))
    try:
        answer = importlib.import_module(module).handler(json.loads(event), context)
    except Exception as error:  # noqa: BLE001 - as the runtime tells it
        answer = {"raised": type(error).__name__, "text": str(error)}
    Path(out).write_text(json.dumps(answer))
    os._exit(0)  # a function's process does not end with its answer: whatever it has left at work does not hold that up


def run_at_lambda(asked: str, out: str) -> None:
    """Several events, each (module, event), by one instance of a function. Notes what it would write, and where."""
    written: list[str] = []

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        opened = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if opened or event in ("os.mkdir", "os.rename", "os.link", "os.symlink", "os.truncate"):
            path = arguments[1] if event in ("os.rename", "os.link") else arguments[0]
            if not isinstance(path, int):  # a descriptor's file was noted when it was opened
                written.append(str(Path(os.fsdecode(path)).absolute()))

    sys.addaudithook(hook)
    answers = []
    for module, event in json.loads(asked):
        try:
            answers.append(importlib.import_module(module).handler(event, Context(time.monotonic(), 60)))
        except Exception as error:  # noqa: BLE001 - as the runtime tells it
            answers.append({"raised": type(error).__name__, "text": str(error)})
    Path(out).write_text(json.dumps({"answers": answers, "written": sorted(set(written))}))
    sys.stdout.flush()
    os._exit(0)
