"""The project as it is shipped, and environments that it is installed into."""

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

import pythons
from packing.wheels import Libraries, Target

ROOT = Path(__file__).parents[1]
VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def built(kind: str, folder: Path, source: Path = ROOT, umask: int = 0o022) -> Path:
    """The `wheel` or the `sdist` of `source`."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, umask=umask)
    (artifact,) = (f for f in folder.iterdir() if f.name.endswith((".whl", ".tar.gz")))
    return artifact


@cache
def _newest_pip() -> "tempfile.TemporaryDirectory[str]":
    """For the newest Pythons: that of an older one, such as Debian's, does not run in them."""
    folder = tempfile.TemporaryDirectory(prefix="pip-")
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--target", folder.name, "pip>=25"]
    subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=True)
    return folder


@dataclass(frozen=True)
class Environment:
    """A virtual environment; its programs run from `home`, a folder that has nothing of this project, and with no variable."""

    place: Path
    home: Path
    version: str

    @classmethod
    def empty(cls, place: Path, version: str = VERSION) -> "Environment":
        interpreter = pythons.find(version)
        assert interpreter is not None
        subprocess.run([interpreter, "-m", "venv", "--without-pip", place], check=True, capture_output=True)
        home = place.with_name(f"{place.name}-home")
        home.mkdir()
        return cls(place, home, version)

    @property
    def packages(self) -> Path:
        return self.place / "lib" / f"python{self.version}" / "site-packages"

    def run(self, *command: str, code: int = 0, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """`command[0]` is found as a user's shell finds it."""
        path = f"{self.place / 'bin'}:/usr/bin:/bin"
        ran = subprocess.run(
            [self.place / "bin" / command[0], *command[1:]],
            cwd=self.home,
            env={"PATH": path, "HOME": str(self.home), "LANG": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert ran.returncode == code, (command, ran.returncode, ran.stdout[-2000:], ran.stderr[-2000:])
        return ran

    def pip(self, *arguments: str | Path, timeout: float = 600) -> None:
        """A pip at work there; the user's own settings of the registry hold."""
        command = [sys.executable, "-W", "ignore", "-m", "pip", "--python", self.place / "bin" / "python", *arguments]
        newest = {} if self.version == VERSION else {"PYTHONPATH": _newest_pip().name}
        ran = subprocess.run(
            command, cwd=self.home, env={**os.environ, **newest}, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr[-3000:]

    def lend(self, names: Iterable[str]) -> None:
        """The files of installed distributions, as links: what pip would unpack there from the same wheels, and much faster."""
        own = Path(metadata.distribution("pip").locate_file(""))
        for name in names:
            for file in _files(metadata.distribution(name), own):
                there, here = self.packages / file, own / file
                if ".." in file.parts or file.suffix == ".pyc" or there.exists() or not here.exists():
                    continue
                there.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(here, there)
                except OSError:  # another file system
                    there.write_bytes(here.read_bytes())


def _files(found: metadata.Distribution, own: Path) -> Iterable[Path]:
    """Below `own`. An old pip installs a source archive without a list of its files, but with one of its packages."""
    if found.read_text("RECORD") is not None:
        return [Path(file) for file in found.files or ()]
    packages = (found.read_text("top_level.txt") or "").split()
    folders = [own / name for name in packages] + list(own.glob(f"{found.name}-{found.version}*.egg-info"))
    return [file.relative_to(own) for folder in folders for file in folder.rglob("*") if file.is_file()]


def required(wheel: Path, *extras: str) -> set[str]:
    """The distributions that `wheel` says it needs, with those that they need, by name."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        told = metadata.PathDistribution(zipfile.Path(archive, f"{name.partition('/')[0]}/"))
        wanted = [Requirement(text) for text in told.requires or ()]
    libraries = Libraries(ROOT, Target(VERSION, "x86_64"))
    waiting = [
        (r.name, frozenset(r.extras))
        for r in wanted
        if r.marker is None or any(r.marker.evaluate(libraries.target.markers(extra)) for extra in ("", *extras))
    ]
    found = set()
    while waiting:
        asked = waiting.pop()
        if asked not in found:
            found.add(asked)
            waiting += libraries.requirements(*asked)
    return {name for name, _ in found}


def constraints(file: Path) -> Path:
    """The versions of the lock, without its hashes, which pip would else ask of the project itself."""
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    file.write_text("\n".join(line.removesuffix("\\").strip() for line in lines if line[:1].isalnum()) + "\n")
    return file
