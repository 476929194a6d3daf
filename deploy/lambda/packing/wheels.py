"""The libraries of an artifact: from import names to locked versions to verified wheels, for the machine where it will run."""

import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from tierkeeper.kernel.errors import Failed, NotNow, UsageError

LOCK: Final = "requirements.lock"
_MACHINES: Final = {"x86_64": "x86_64", "arm64": "aarch64"}
_GLIBC: Final = range(28, 16, -1)  # of manylinux; Lambda's machines have 2.34 since their Python 3.12
_AWAY: Final = re.compile(r"Retrying|ConnectionError|Max retries|timed out|Temporary failure|ProxyError|Network is unreachable")
_CHUNK: Final = 1 << 20


@dataclass(frozen=True)
class Target:
    """What the artifact runs on: `python` such as "3.13", `arch` as Lambda names it."""

    python: str
    arch: str

    @property
    def folder(self) -> str:
        return f"cp{self.python.replace('.', '')}-{self.arch}"

    @property
    def platforms(self) -> list[str]:
        machine = _MACHINES[self.arch]
        return [f"manylinux_2_{minor}_{machine}" for minor in _GLIBC] + [f"manylinux2014_{machine}"]

    def markers(self, extra: str) -> dict[str, str]:
        """For the conditions of a requirement."""
        return {
            "python_version": self.python,
            "python_full_version": f"{self.python}.0",
            "implementation_name": "cpython",
            "platform_python_implementation": "CPython",
            "sys_platform": "linux",
            "platform_system": "Linux",
            "platform_machine": _MACHINES[self.arch],
            "os_name": "posix",
            "extra": extra,
        }


@dataclass(frozen=True)
class Locked:
    """A distribution of the lock: `text` is its entry there."""

    name: str
    version: str
    text: str

    @property
    def hashes(self) -> frozenset[str]:
        return frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", self.text))


class Libraries:
    """What the project may use: its lock in `root`, its own requirements, and what the installed distributions say of theirs."""

    def __init__(self, root: Path, target: Target) -> None:
        self.root = root
        self.target = target

    @cached_property
    def locked(self) -> Mapping[str, Locked]:
        """By name; of a distribution that is locked for several platforms, the entry for this one."""
        found = dict[str, Locked]()
        for text in re.split(r"\n(?=[a-z0-9])", (self.root / LOCK).read_text(encoding="utf-8"), flags=re.I):
            wanted = Requirement(text.partition("\\")[0].partition(" --hash")[0])
            if wanted.marker is None or wanted.marker.evaluate(self.target.markers("")):
                name = canonicalize_name(wanted.name)
                found[name] = Locked(name, str(wanted.specifier).removeprefix("=="), text.strip())
        return found

    @cached_property
    def _extras(self) -> Mapping[str, set[str]]:
        project = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return {canonicalize_name(r.name): r.extras for r in map(Requirement, project["dependencies"])}

    def behind(self, imported: Mapping[str, str], alone: Iterable[str] = ()) -> list[Locked]:
        """The distributions of the names `imported` (each with who imports it) and what those require; of `alone` nothing.

        Raises UsageError for a name of none, or of one that is not locked.
        """
        providers, alone = metadata.packages_distributions(), frozenset(alone)
        found: dict[str, Locked] = {}
        waiting: list[tuple[str, frozenset[str], str]] = []
        for name, origin in imported.items():
            if name not in providers:
                remedy = "Add what brings it to pyproject.toml, then run: make lock setup"
                raise UsageError(origin, f"it imports {name}, which is not installed", remedy)
            first = canonicalize_name(sorted(providers[name])[0])
            waiting.append((first, frozenset(self._extras.get(first, ())), origin))
        seen = set()
        while waiting:
            asked = name, extras, origin = waiting.pop()
            if asked in seen:
                continue
            seen.add(asked)
            found[name] = self._one(name, origin)
            waiting += [] if name in alone else [(r, more, name) for r, more in self.requirements(name, extras)]
        return sorted(found.values(), key=lambda f: f.name)

    def _one(self, name: str, origin: str) -> Locked:
        if name not in self.locked:
            raise UsageError(LOCK, f"{name} is not in it, and {origin} needs it", "Run: make lock setup")
        found = self.locked[name]
        if metadata.version(name) != found.version:
            raise UsageError(LOCK, f"{name} {metadata.version(name)} is installed, not {found.version}", "Run: make setup")
        return found

    def requirements(self, name: str, extras: Iterable[str]) -> list[tuple[str, frozenset[str]]]:
        """What the installed distribution `name` with `extras` requires on the target: names, with their own extras."""
        wanted = [Requirement(text) for text in metadata.requires(name) or ()]
        return [
            (canonicalize_name(r.name), frozenset(r.extras))
            for r in wanted
            if r.marker is None or any(r.marker.evaluate(self.target.markers(extra)) for extra in ("", *extras))
        ]

    def fetched(self, needed: Iterable[Locked], folder: Path) -> dict[str, Path]:
        """The wheels of `needed`, by name, from below `folder`; what is not there is downloaded, all at once.

        Each is compared with the lock, also one that was there. Raises Failed for one that is not what was locked or that there
        is none of for this target, NotNow where the registry is away.
        """
        place = folder / self.target.folder
        place.mkdir(parents=True, exist_ok=True)
        needed = list(needed)
        here = _wheels(place)
        missing = [n for n in needed if (n.name, n.version) not in here]
        if missing:
            self._download(missing, place)
            here = _wheels(place)
        for one in needed:
            wheel = here.get((one.name, one.version))
            if wheel is None or _sha256(wheel) not in one.hashes:
                where = wheel or place
                raise Failed(str(where), f"this is not {one.name} {one.version} as it is locked", "Delete it and run this again")
        return {one.name: here[one.name, one.version] for one in needed}

    def _download(self, missing: list[Locked], place: Path) -> None:
        wanted = place / "wanted.txt"
        wanted.write_text("\n".join(m.text for m in missing) + "\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "--retries", "2", "download"]
        command += ["--quiet", "--no-deps", "--require-hashes", "--only-binary", ":all:", "--implementation", "cp"]
        command += ["--python-version", self.target.python, *(f"--platform={p}" for p in self.target.platforms)]
        ran = subprocess.run(  # noqa: S603 - pip, with what the lock says
            [*command, "--dest", str(place), "--requirement", str(wanted)],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode == 0:
            return
        names = ", ".join(m.name for m in missing)
        cause = next((line.removeprefix("ERROR: ") for line in ran.stderr.splitlines() if line.startswith("ERROR")), "pip failed")
        if _AWAY.search(ran.stderr):
            raise NotNow(names, "the package registry did not answer", "Try again when this machine reaches it")
        raise Failed(names, cause, f"See what {LOCK} says of it, and run: make lock setup")


def _wheels(place: Path) -> dict[tuple[str, str], Path]:
    found = {}
    for wheel in sorted(place.glob("*.whl")):
        name, version, _, _ = parse_wheel_filename(wheel.name)
        found[str(name), str(version)] = wheel
    return found


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
