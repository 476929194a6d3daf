"""Other versions of Python than the machine's own: found here, or unpacked from Debian's newer packages, and not installed.

`python tests/pythons.py 3.13` unpacks one into the user's cache. It brings its own C library, so it runs on an older system too.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SUITES = {"3.13": "trixie", "3.14": "forky"}
NEEDED = (
    "libc6",
    "libgcc-s1",
    "libssl3t64",
    "libexpat1",
    "zlib1g",
    "libffi8",
    "liblzma5",
    "libbz2-1.0",
    "libsqlite3-0",
    "libuuid1",
)
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
LOADER = "usr/lib64/ld-linux-x86-64.so.2"


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tierkeeper-tests"


def find(version: str) -> Path | None:
    """The interpreter of `version`, such as "3.13": this one, one of the PATH or of pyenv, or one that was unpacked."""
    name = f"python{version}"
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    there = [Path(sys.base_prefix) / "bin" / name, *map(Path, filter(None, [shutil.which(name)]))]
    there += [*sorted(pyenv.glob(f"{version}.*/bin/{name}")), cache() / version / "usr" / "bin" / name]
    return next((python for python in there if python.exists() and _runs(python, version)), None)


def _runs(python: Path, version: str) -> bool:
    """Whether it is what its name says: a shim may be there, and stand for nothing."""
    asked = [python, "-I", "-c", "import sys, ssl; print(*sys.version_info[:2], sep='.')"]
    return subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip() == version


def why_not(version: str) -> str:
    """For a test that is skipped."""
    return f"Python {version} is not here: python tests/pythons.py {version} unpacks Debian's"


def unpack(version: str) -> Path:
    """Raises CalledProcessError where Debian's packages are not to be had."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        apt = [*_apt(folder, SUITES[version])]
        subprocess.run([*apt, "update"], check=True, stdin=subprocess.DEVNULL)
        packages = [f"python{version}-minimal", f"libpython{version}-minimal", f"libpython{version}-stdlib", *NEEDED]
        subprocess.run([*apt, "download", *packages], check=True, cwd=folder, stdin=subprocess.DEVNULL)
        tree = folder / "tree"
        for package in sorted(folder.glob("*.deb")):
            subprocess.run(["dpkg-deb", "-x", package, tree], check=True)
        home = cache() / version
        _wrap(tree, home, version)
        home.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(home, ignore_errors=True)
        shutil.move(tree, home)
    return home / "usr" / "bin" / f"python{version}"


def _apt(folder: Path, suite: str) -> list[str]:
    """apt-get with folders of its own: the machine's packages and lists stay as they are. Its mirror is the machine's."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(COMPONENT)"], capture_output=True, text=True, check=True
    ).stdout
    mirror = next(line.split()[0] for line in targets.splitlines() if line.split()[0].rstrip("/").endswith("/debian"))
    (folder / "lists" / "partial").mkdir(parents=True)
    (folder / "archives" / "partial").mkdir(parents=True)
    (folder / "status").touch()
    (folder / "sources").write_text(f"deb [signed-by={KEYRING}] {mirror} {suite} main\n")
    options = {
        "Dir::State": folder,
        "Dir::State::lists": folder / "lists",
        "Dir::State::status": folder / "status",
        "Dir::Cache": folder,
        "Dir::Etc::sourcelist": folder / "sources",
        "Dir::Etc::sourceparts": "-",
        "APT::Sandbox::User": "root",
        "Acquire::Retries": 2,
        "Acquire::http::Timeout": 30,
        "Acquire::Languages": "none",
    }
    return ["apt-get", "--quiet", "--quiet", *(f"--option={key}={value}" for key, value in options.items())]


def _wrap(tree: Path, home: Path, version: str) -> None:
    """Lets the interpreter be started by its own loader, also by a link to it, as a virtual environment has one."""
    program = tree / "usr" / "bin" / f"python{version}"
    program.rename(program.with_suffix(".program"))
    libraries = home / "usr" / "lib" / "x86_64-linux-gnu"
    real = home / "usr" / "bin" / program.with_suffix(".program").name
    command = f'exec "{home / LOADER}" --argv0 "$0" --library-path "{libraries}" "{real}" "$@"'
    program.write_text(f"#!/bin/sh\n{command}\n")
    program.chmod(0o755)


if __name__ == "__main__":
    sys.stdout.write(f"{find(sys.argv[1]) or unpack(sys.argv[1])}\n")
