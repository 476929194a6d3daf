"""The demo that stays up, as a user starts it: `tierkeeper demo --serve --json` in a process of its own.

The fixture `served_demo` (conftest) is one for all tests of a worker, since its cycle takes some fifteen seconds of work.
Tests of one worker run one after the other, so that nobody else moves its rows meanwhile; but two weeks of rows are due only
once, and no test may rely on being the first. Nobody may stop its servers. That it leaves nothing is tested when it ends.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from support import eventually, runs
from tierkeeper.config import Settings, load
from tierkeeper.config.folder import pins
from tierkeeper.demo import launch
from tierkeeper.postgres.link import Link

PROGRAM: Final = Path(sys.executable).parent / "tierkeeper"
_READY_SECONDS: Final = 100.0
_END_SECONDS: Final = 30.0


@dataclass(frozen=True)
class Demo:
    """A process of `demo` that has begun. `folder` is the temporary folder that it makes its own in."""

    process: "subprocess.Popen[str]"
    folder: Path
    home: Path

    @classmethod
    def begin(cls, folder: Path, *arguments: str) -> "Demo":
        """Starts `tierkeeper demo --serve --json` and does not wait. It ends with whoever started it, kill -9 included."""
        temporary, home = folder / "tmp", folder / "home"
        for made in (temporary, home):
            made.mkdir(mode=0o711)
        folder.chmod(0o711)
        started = [sys.executable, "-I", "-S", launch.__file__, "as-is", str(os.getpid()), str(PROGRAM)]
        with (folder / "stderr").open("w") as err:
            process = subprocess.Popen(
                [*started, "demo", "--serve", "--json", *arguments],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err, text=True, cwd=folder,
                env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(temporary)},
            )  # fmt: skip
        return cls(process, temporary, home)

    def servers(self) -> list[int]:
        """The Postgres servers that it has started."""
        pids = []
        for file in self.folder.glob("tierkeeper-demo-*/[!.]*/postmaster.pid"):  # initdb's own are hidden, and no servers yet
            text = file.read_text().split()
            pids += [int(text[0])] if text else []
        return pids

    def end(self, number: int) -> int:
        """Sends it a signal; its exit code. Every server has to be gone soon after."""
        servers = self.servers()
        self.process.send_signal(number)
        code = self.process.wait(_END_SECONDS)
        if self.process.stdout is not None:
            self.process.stdout.close()
        assert eventually(lambda: not any(map(runs, servers)), _END_SECONDS), "a server outlived its demo"
        return code


@dataclass(frozen=True)
class ServedDemo:
    """One that is ready.

    `told` is the line that it printed (a ServedDemoResult). `environment` is for a subprocess: a home that has nothing, PATH, and
    what the demo told to export; `page` the address of its page, `config` its tierkeeper.toml.
    """

    demo: Demo
    told: dict[str, Any]
    environment: Mapping[str, str]

    @classmethod
    def start(cls, folder: Path, *arguments: str) -> "ServedDemo":
        """Waits until it is ready."""
        demo = Demo.begin(folder, *arguments)
        out = demo.process.stdout
        assert out is not None
        began = time.monotonic()
        line = out.readline()
        assert line, f"it ended without a word: {(folder / 'stderr').read_text()}"
        assert time.monotonic() - began < _READY_SECONDS
        told = json.loads(line)
        return cls(demo, told, {"PATH": os.environ["PATH"], "HOME": str(demo.home), **told["environment"]})

    @property
    def config(self) -> Path:
        return Path(self.told["config"])

    @property
    def page(self) -> str:
        return str(self.told["dashboard"])

    @property
    def settings(self) -> Settings:
        return load(self.config, {}, self.config.parent)

    @property
    def links(self) -> dict[str, Link]:
        """How a test's own oracle reaches `core`, `main` and `archive` (the catalog)."""
        return self.settings.links(pins(self.settings.environment({})))

    def board(self) -> dict[str, Any]:
        """The page as JSON."""
        return dict(httpx.get(f"{self.page}board.json", timeout=60).raise_for_status().json())

    def run(self, *command: str, seconds: float = 100) -> "subprocess.CompletedProcess[str]":
        """Runs a command in a second terminal; `tierkeeper` and `python3` are those of the tests."""
        known = {"tierkeeper": str(PROGRAM), "python3": sys.executable}
        return subprocess.run(
            [known.get(command[0], command[0]), *command[1:]],
            env=dict(self.environment), cwd=self.demo.home, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def ask(self, *argv: str) -> Any:
        """`tierkeeper ARGV --json` in a second terminal: its document; it has to exit 0."""
        ran = self.run("tierkeeper", *argv, "--json")
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return json.loads(ran.stdout)
