"""Events as AWS sends them, and invocations: a handler in a process of its own that is killed at its limit, as at AWS Lambda."""

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

_CHILD = """
import importlib, json, sys, time
class Context:
    def __init__(self, began, seconds):
        self.until = began + seconds
    def get_remaining_time_in_millis(self):
        return max(int((self.until - time.monotonic()) * 1000), 0)
module, event, began, seconds, out = sys.argv[1:]
handler = importlib.import_module(module).handler
context = Context(float(began), float(seconds))
try:
    answer = handler(json.loads(event), context)
except Exception as error:
    answer = {"raised": type(error).__name__, "text": str(error)}
json.dump(answer, open(out, "w"))
"""


@dataclass(frozen=True)
class Invocation:
    """What came of one: its answer, or what it raised; `killed` where the limit came first."""

    answer: Mapping[str, Any]
    seconds: float
    killed: bool
    log: str

    @property
    def raised(self) -> str | None:
        """The error's text."""
        return self.answer.get("text") if "raised" in self.answer else None


def invoke(module: str, event: object, environment: Mapping[str, str], folder: Path, seconds: float) -> Invocation:
    """Invokes a root module's handler in a new process, a cold start; after `seconds` of its life it is killed."""
    out = folder / f"answer-{time.monotonic_ns()}.json"
    began = time.monotonic()
    command = [sys.executable, "-c", _CHILD, module, json.dumps(event), str(began), str(seconds), str(out)]
    given = {**environment, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("w+b") as log:
        process = subprocess.Popen(
            command, env=given, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            process.wait(max(seconds - (time.monotonic() - began), 0.01))
            killed = False
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            killed = True
        took = time.monotonic() - began
        log.seek(0)
        said = log.read().decode(errors="replace")
    answer = json.loads(out.read_text()) if out.exists() and not killed else {}
    assert killed or process.returncode == 0, said
    return Invocation(answer, took, killed, said)
