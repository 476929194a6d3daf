"""Messages to the targets of `[alerts] notify`, through Apprise, which knows some two hundred services.

An address is a secret, from its path on at the latest: it is in no name, error, log or result, and only on the stdin of the
process that speaks to Apprise.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Protocol

from tierkeeper.kernel.errors import Faults, TierkeeperError, UsageError
from tierkeeper.kernel.limits import ALERT_SEND_SECONDS, ALERT_TRIES, ALERT_TRY_SECONDS
from tierkeeper.monitoring.alerts.messages import Message

_EXAMPLE: Final = "Write an Apprise URL, such as mailtos://user:password@example.com or json://host/path; best as env:NAME"
_KNOWN_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]{0,19}")
_NEEDED: Final = re.compile(
    r"PATH|HOME|USER|LOGNAME|LANG|LANGUAGE|LC_.*|TZ|TMPDIR|TEMP|TMP|XDG_.*|LD_LIBRARY_PATH|VIRTUAL_ENV|SYSTEMROOT"
    r"|(HTTP|HTTPS|ALL|NO)_PROXY|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE"
    r"|DISPLAY|WAYLAND_DISPLAY|DBUS_SESSION_BUS_ADDRESS"  # of services that show it on this machine's desktop
)
_SALT: Final = b"tierkeeper alert target"


@dataclass(frozen=True)
class Target:
    """One of `[alerts] notify`, by its place there."""

    number: int
    url: str = field(repr=False)

    @property
    def place(self) -> str:
        return f"alerts.notify[{self.number}]"

    @cached_property
    def name(self) -> str:
        """What is shown of it: its place, and the kind of service."""
        scheme, found, _ = self.url.partition("://")
        return f"{self.place} ({scheme.lower()})" if found and _KNOWN_SCHEME.fullmatch(scheme.lower()) else self.place

    @cached_property
    def id(self) -> str:
        """What is remembered of it: whoever reads that cannot try passwords on it quickly."""
        return hashlib.scrypt(self.url.encode(), salt=_SALT, n=2**12, r=8, p=1, dklen=8).hex()


@dataclass(frozen=True)
class Delivery:
    """What became of a message to a target. `cause` of a failure."""

    target: Target
    cause: str | None = None
    tries: int = 1

    @property
    def ok(self) -> bool:
        return self.cause is None


class Sender(Protocol):
    """Sends messages; each target is tried by itself, and this returns within a bounded time. Raises nothing."""

    def send(self, messages: Mapping[Target, Message]) -> list[Delivery]: ...


@dataclass(frozen=True)
class AppriseSender:
    """Implements `Sender`."""

    tries: int = ALERT_TRIES
    wait_seconds: float = ALERT_TRY_SECONDS
    seconds: float = ALERT_SEND_SECONDS

    def send(self, messages: Mapping[Target, Message]) -> list[Delivery]:
        return self._delivered(list(messages), self._ask("send", messages))

    def test(self, messages: Mapping[Target, Message]) -> list[Delivery]:
        """As `send`; raises Faults or UsageError, and sends none, where one is no address."""
        targets, answers = list(messages), self._ask("test", messages)
        if any("looked" in answer for answer in answers.values()):
            errors, _ = _judged(targets, answers)
            raise errors[0] if len(errors) == 1 else Faults(errors)
        return self._delivered(targets, answers)

    def _ask(self, op: str, messages: Mapping[Target, Message]) -> dict[int, dict[str, Any]]:
        asked = [{"url": t.url, "title": m.title, "body": m.body, "tone": m.tone} for t, m in messages.items()]
        return _ask({"op": op, "targets": asked, "tries": self.tries, "wait_seconds": self.wait_seconds}, self.seconds)

    def _delivered(self, targets: Sequence[Target], answers: Mapping[int, Mapping[str, Any]]) -> list[Delivery]:
        late = {"ok": False, "cause": f"it was not through in {self.seconds:.0f} seconds", "tries": 1}
        told = [answers.get(number, late) for number in range(len(targets))]
        return [Delivery(t, None if a["ok"] else str(a["cause"]), int(a["tries"])) for t, a in zip(targets, told, strict=True)]


def look(targets: Sequence[Target]) -> tuple[list[TierkeeperError], list[str]]:
    """What is wrong with the addresses, without reaching any; and what is worth knowing of the others."""
    answers = _ask({"op": "look", "targets": [{"url": t.url} for t in targets]}, ALERT_SEND_SECONDS) if targets else {}
    return _judged(targets, answers)


def _judged(targets: Sequence[Target], answers: Mapping[int, Mapping[str, Any]]) -> tuple[list[TierkeeperError], list[str]]:
    errors: list[TierkeeperError] = []
    notes: list[str] = []
    for number, target in enumerate(targets):
        answer = answers.get(number, {"ok": False, "cause": "form"})
        if answer["ok"]:
            notes += _notes(target, answer)
        elif answer["cause"] == "scheme":
            cause = "no service that Apprise knows begins so" if "://" in target.url else "this is no address: it has no ://"
            errors.append(UsageError(target.place, cause, _EXAMPLE))
        else:
            cause = "Apprise does not take it: something is missing in it, or has not the form that its service asks for"
            errors.append(UsageError(target.place, cause, _EXAMPLE))
    return errors, notes


def _notes(target: Target, answer: Mapping[str, Any]) -> Iterator[str]:
    if answer["plain"]:
        yield f"{target.name}: messages go there over a link that anyone between can read, its password with them"
    if answer["trusting"]:
        yield f"{target.name}: its certificate is not checked (verify=no)"


def _handed_on(environment: Mapping[str, str]) -> dict[str, str]:
    """What a service may need of this process's environment: no key, token or database's URL is among it."""
    return {name: value for name, value in environment.items() if _NEEDED.fullmatch(name.upper())}


def _ask(question: Mapping[str, Any], seconds: float) -> dict[int, dict[str, Any]]:
    """The child's answers by target; those that had not come by the end of the time are missing."""
    path = os.pathsep.join(p for p in sys.path if p)
    environment = {**_handed_on(os.environ), "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "tierkeeper.monitoring.alerts.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as child:
        try:
            out, _ = child.communicate(json.dumps(question), timeout=seconds)
        except subprocess.TimeoutExpired:
            child.kill()
            out, _ = child.communicate()
        except BaseException:
            child.kill()
            raise
    answers = dict[int, dict[str, Any]]()
    for line in (out or "").splitlines():
        try:
            told = json.loads(line)
        except ValueError:
            continue  # cut in its middle by the end of the time
        answers[told.pop("target")] = told
    return answers
