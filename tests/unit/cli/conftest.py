"""A keeper that answers what the test tells it to: the command line's own behaviour, without servers."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tierkeeper import compose
from tierkeeper.cli.app import run

SECRET = "s3cr3t-passw0rd"
URL = f"postgresql://u:{SECRET}@127.0.0.1:1/x"


@dataclass
class Double:
    """Answers every method with `answer`, or raises it; remembers how it was called."""

    answer: Any = None
    calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = field(default_factory=list)
    opened: dict[str, Any] = field(default_factory=dict)

    def __enter__(self) -> "Double":
        return self

    def __exit__(self, *_: object) -> None:
        """A keeper counts its egress here."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def called(*args: Any, **kwargs: Any) -> Any:
            self.calls.append((name, args, kwargs))
            answer = self.answer() if callable(self.answer) else self.answer
            if isinstance(answer, BaseException):
                raise answer
            return answer

        return called


@dataclass(frozen=True)
class Ran:
    """What a command printed and how it ended."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Double:
    """The double, behind a configuration by variables alone; nothing of the tester's own environment is seen."""
    double = Double()

    def open_keeper(settings: object, **wired: Any) -> Double:
        double.opened = {"settings": settings, **wired}
        return double

    monkeypatch.setattr(compose, "open_keeper", open_keeper)
    for name in ("CORE_SUPABASE_URL", "MAIN_SUPABASE_URL", "ARCHIVE_SUPABASE_URL"):
        monkeypatch.setenv(name, URL)
    monkeypatch.setenv("ARCHIVE_PATH", "store")
    monkeypatch.delenv("TIERKEEPER_CONFIG", raising=False)
    monkeypatch.delenv("TIERKEEPER_DEBUG", raising=False)
    monkeypatch.delenv("HOME_SERVER_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    return double


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Runs one command line in this process."""

    def call(*argv: str) -> Ran:
        code = run(argv)
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return call
