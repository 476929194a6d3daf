"""What lies in an artifact, that it is the same wherever it is built, and what is refused before one is written."""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import artifacts
import lambdas
from packing import parts, zips
from support import sampled

MB = 1_000_000
BALANCER = "intelligent-load-balancer"
SMALL = {
    *("annotated_types", "anyio", "certifi", "cffi", "croniter", "cryptography", "h11", "httpcore", "httpx", "idna", "obstore"),
    *("psycopg", "psycopg_binary", "pycparser", "pydantic", "pydantic_core", "python_dateutil", "python_dotenv", "six"),
    *("tenacity", "typing_extensions", "typing_inspection", "xxhash"),
}
FROM_AWS = {"botocore", "jmespath", "urllib3"}  # what asks Parameter Store
WITH_ARROW = SMALL | {"procrastinate", "pyarrow", "pyrage", "rfc8785", "sqlglot", "structlog"}
BUILT_FROM = ("src", "deploy/lambda", "pyproject.toml", "requirements.lock", "LICENSE")


def distributions(names: list[str]) -> set[str]:
    folders = {name.partition("/")[0] for name in names if ".dist-info/" in name}
    return {folder.removesuffix(".dist-info").rpartition("-")[0] for folder in folders}


@pytest.fixture(scope="module")
def built() -> Path:
    return lambdas.built("3.13")


@pytest.mark.parametrize("function", lambdas.FUNCTIONS)
def test_an_artifact_fits_and_has_what_its_function_imports(built: Path, function: str) -> None:
    file = built / f"{function}.zip"
    with zipfile.ZipFile(file) as artifact:
        infos, names = artifact.infolist(), artifact.namelist()
    assert file.stat().st_size < 50 * MB
    assert sum(i.file_size for i in infos) < 250 * MB
    assert distributions(names) - FROM_AWS == (SMALL if function == BALANCER else WITH_ARROW)
    own = [n for n in names if n.startswith("tierkeeper/")]
    assert [n for n in names if n.count("/") == 0 and n.endswith(".py") and n not in ("six.py", "typing_extensions.py")] == [
        f"{function.replace('-', '_')}.py"
    ]
    assert "tierkeeper/cli/app.py" not in own
    for room in ("query", "demo", "homeserver", "jobs", "web", "testing"):
        assert not [n for n in own if n.startswith(f"tierkeeper/{room}/")], room
    if function == BALANCER:
        assert file.stat().st_size < 20 * MB
        assert not [n for n in own if n.startswith(("tierkeeper/archive/", "tierkeeper/setup/", "tierkeeper/mover/runner"))]
    else:
        shipped = lambdas.ROOT / "src" / "tierkeeper"
        rooms = ("archive", "mover", "setup", "quotas", "postgres", "tiers", "security", "monitoring")
        statements = {str(f.relative_to(shipped.parent)) for room in rooms for f in (shipped / room).rglob("*.sql")}
        assert len(statements) > 40
        assert statements <= set(own)


@pytest.mark.parametrize("function", lambdas.FUNCTIONS)
def test_an_artifact_tells_nothing_of_where_and_when_it_was_built(built: Path, function: str) -> None:
    with zipfile.ZipFile(built / f"{function}.zip") as artifact:
        names = artifact.namelist()
        assert names == sorted(names)
        assert {i.date_time for i in artifact.infolist()} == {(2020, 1, 1, 0, 0, 0)}
        assert {i.external_attr >> 16 for i in artifact.infolist()} == {0o100644}
        assert [n for n in names if n.endswith((".pyc", "RECORD", "direct_url.json", "INSTALLER", ".pyx", ".h"))] == []
        places = [str(lambdas.ROOT).encode(), str(Path.home()).encode() + b"/."]
        ours = [n for n in names if n.startswith("tierkeeper/") or "/" not in n or ".dist-info/" in n]
        assert [n for n in ours if any(place in artifact.read(n) for place in places)] == []


def test_every_library_keeps_its_licence(built: Path) -> None:
    with zipfile.ZipFile(built / "multi-tier-setup.zip") as artifact:
        names = set(artifact.namelist())
    counted = 0
    for wheel in (lambdas.CACHE / "wheels" / "cp313-x86_64").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            info = [n for n in archive.namelist() if ".dist-info/" in n and not n.endswith("/")]
        if info[0].partition("/")[0] in {n.partition("/")[0] for n in names}:
            texts = {n for n in info if any(word in n.upper() for word in ("LICEN", "COPYING", "NOTICE", "AUTHORS", "METADATA"))}
            assert texts <= names
            counted += len(texts)
    assert counted > 2 * len(WITH_ARROW)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """The project in another folder, of another day, and for its owner alone."""
    place = tmp_path / "elsewhere" / "a clone"
    place.mkdir(parents=True)
    for name in (*BUILT_FROM, *(f.name for f in lambdas.ROOT.glob("*.py"))):
        source, there = lambdas.ROOT / name, place / name
        there.parent.mkdir(exist_ok=True, parents=True)
        if source.is_dir():
            shutil.copytree(source, there, ignore=shutil.ignore_patterns("__pycache__"), copy_function=shutil.copyfile)
        else:
            shutil.copyfile(source, there)
    for file in place.rglob("*"):
        os.utime(file, (1_000_000_000, 1_000_000_000))
    return place


def rebuilt(place: Path, function: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """There, from the wheels that are here, everything squeezed anew."""
    wheels = place / "build" / "lambda" / "wheels"
    if not wheels.exists():
        shutil.copytree(lambdas.CACHE / "wheels", wheels, copy_function=os.link)
    return subprocess.run(
        [sys.executable, "-B", place / "deploy/lambda/artifacts.py", "--function", function, *arguments],
        cwd="/",
        umask=0o077,
        env={**os.environ, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("function", sampled(lambdas.FUNCTIONS, BALANCER))
def test_the_same_inputs_give_the_same_bytes_and_others_other_bytes(built: Path, copied: Path, function: str) -> None:
    ran = rebuilt(copied, function, TZ="Pacific/Kiritimati", PYTHONHASHSEED="1", LC_ALL="C", SOURCE_DATE_EPOCH="1")
    assert ran.returncode == 0, ran.stderr
    assert "built in" in ran.stdout
    file = copied / "dist" / "lambda" / f"{function}.zip"
    first, when = file.read_bytes(), file.stat().st_mtime_ns
    assert first == (built / f"{function}.zip").read_bytes()
    assert "unchanged" in rebuilt(copied, function).stdout
    assert file.stat().st_mtime_ns == when
    with (copied / "src/tierkeeper/compose/balancing.py").open("a") as stream:
        stream.write("# more\n")
    assert "built in" in rebuilt(copied, function).stdout
    second = file.read_bytes()
    with zipfile.ZipFile(file) as artifact:
        assert artifact.read("tierkeeper/compose/balancing.py").endswith(b"# more\n")
    file.write_bytes(second[:-1000])
    assert "built in" in rebuilt(copied, function).stdout
    assert file.read_bytes() == second


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """The script's `main`, into an empty folder: its exit code, and what it says of an error."""

    def call(*arguments: str | Path) -> tuple[int, str]:
        given = ["--out", tmp_path / "out", "--cache", lambdas.CACHE, "--config", tmp_path / "tierkeeper.toml", *arguments]
        code = artifacts.main([str(a) for a in given])
        return code, capsys.readouterr().err

    return call


def test_an_unknown_function_is_refused_with_those_that_are_known(run: Run, tmp_path: Path) -> None:
    code, said = run("--function", "home-server-archive")
    assert code == 2
    assert all(name in said for name in lambdas.FUNCTIONS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", ["ZIPPED_BYTES_MAX", "UNZIPPED_BYTES_MAX"])
def test_an_artifact_that_lambda_would_not_take_is_not_written(
    run: Run, tmp_path: Path, built: Path, monkeypatch: pytest.MonkeyPatch, limit: str
) -> None:
    monkeypatch.setattr(artifacts, limit, 17 * MB)
    code, said = run("--function", BALANCER)
    assert code == 1
    assert "Lambda takes" in said
    assert "obstore has" in said
    assert not (tmp_path / "out").exists()


def test_the_users_configuration_goes_along(run: Run, tmp_path: Path, built: Path) -> None:
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs" / "main.pem").write_text("a certificate")
    toml = tmp_path / "tierkeeper.toml"
    toml.write_text('[tiers.main]\nurl = "env:MAIN_SUPABASE_URL"\nsslrootcert = "certs/main.pem"\n')
    assert run("--function", BALANCER)[0] == 0
    with zipfile.ZipFile(tmp_path / "out" / f"{BALANCER}.zip") as artifact:
        assert artifact.read("tierkeeper.toml") == toml.read_bytes()
        assert artifact.read("certs/main.pem") == b"a certificate"


SECRETS = """
[tiers.core]
url = "postgresql://postgres:hunter2@db.example.org:5432/postgres"
[tiers.archive]
catalog = "host=db.example.org password=hunter2"
store = "https://home.example.org:8443/#sha256=00"
token = "hunter2"
[alerts]
notify = ["env:ALERT_URL", "ntfy://hunter2"]
[[balance.services]]
name = "api"
backends = ["http://10.0.0.2:9000", { url = "postgresql://10.0.0.2:5432/app?password=hunter2" }]
"""


REMARKS = """
[tiers.core]
url = "postgresql://u:pass/hunter2@db.example.com/app"  # was "postgresql://u:hunter2@db.example.com/app"
# token = "hunter2"
# token = "env:HOME_SERVER_TOKEN", and the database at postgresql://db.example.com:5432/app
"""


def test_a_secret_in_plain_text_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tierkeeper.toml").write_text(SECRETS)
    code, said = run()
    assert code == 2
    places = [line.split()[-1] for line in said.splitlines() if line.startswith("error")]
    assert places == [
        *("tiers.core.url", "tiers.archive.catalog", "tiers.archive.token", "alerts.notify[1]"),
        "balance.services[0].backends[1].url",
    ]
    assert "env:NAME" in said
    assert "hunter2" not in said
    (tmp_path / "tierkeeper.toml").write_text(REMARKS)
    code, said = run()
    assert code == 2
    assert [line.split("tierkeeper.toml: ")[1] for line in said.splitlines() if line.startswith("error")] == [
        "line 3", "line 4", "tiers.core.url"
    ]  # fmt: skip
    assert "hunter2" not in said
    assert not (tmp_path / "out").exists()


BROKEN = """
[tiers.core]
url = "env:CORE_SUPABASE_URL"
quota = "5 bananas"
[tiers.archive]
store = "env:HOME_SERVER_URL"
token = "env:HOME_SERVER_TOKEN"
quota = "env:ROOM"
[[tables]]
name = "public.flights"
age = "time_hour"
coer = "30 days"
[notify]
"""


def test_what_no_function_could_read_is_refused(run: Run, tmp_path: Path) -> None:
    (tmp_path / "tierkeeper.toml").write_text(BROKEN)
    code, said = run()
    assert code == 2
    places = {line.split()[-1] for line in said.splitlines() if line.startswith("error")}
    assert places == {"tiers.core.quota", "tables[0].coer", "notify"}
    assert "Did you mean core?" in said
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("written", "place"),
    [
        ("CORE_QUOTA_LIMIT=5 bananas\nCORE_SUPABASE_URL=http://", "CORE_QUOTA_LIMIT"),
        ("LOAD_BALANCER_ALGORITHM=best", "LOAD_BALANCER_ALGORITHM"),
        ("MAX_RETRIES=many", "MAX_RETRIES"),
        ("A=1\nB='never closed", ".env: line 2"),
    ],
)
def test_a_variable_that_no_function_could_read_is_refused(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, place: str
) -> None:
    for name in ("CORE_QUOTA_LIMIT", "LOAD_BALANCER_ALGORITHM", "MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".env").write_text(written)
    code, said = run()
    assert code == 2
    assert [line.removeprefix("error").strip() for line in said.splitlines() if line.startswith("error")] == [place]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("place", ["/etc/ssl/ca.pem", "../ca.pem", "gone.pem"])
def test_a_file_that_cannot_come_along_is_refused(run: Run, tmp_path: Path, place: str) -> None:
    (tmp_path / "tierkeeper.toml").write_text(f'[tiers.core]\nsslrootcert = "{place}"\n')
    code, said = run()
    assert code == 2
    assert "tiers.core.sslrootcert" in said


def test_without_a_registry_it_says_so(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name, raising=False)
    code, said = run("--function", BALANCER, "--cache", tmp_path / "empty")
    assert code == 75
    assert "registry" in said


def test_a_wheel_that_is_not_what_was_locked_is_refused(run: Run, tmp_path: Path, built: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(lambdas.CACHE / "wheels", cache / "wheels", copy_function=os.link)
    (wheel,) = cache.glob("wheels/cp313-x86_64/httpx-*.whl")
    raw = wheel.read_bytes()
    wheel.unlink()
    wheel.write_bytes(raw + b" ")
    code, said = run("--function", BALANCER, "--cache", cache)
    assert code == 1
    assert wheel.name in said


def test_a_library_loads_without_what_only_a_debugger_reads(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("_cffi_backend")
    assert spec is not None and spec.origin is not None
    whole = Path(spec.origin).read_bytes()
    bare = parts.bare(whole)
    assert len(bare) < len(whole)
    (tmp_path / "bare.so").write_bytes(bare)
    code = f"import ctypes; ctypes.CDLL({str(tmp_path / 'bare.so')!r}).PyInit__cffi_backend"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert parts.bare(b"#!/bin/sh\n") == b"#!/bin/sh\n"


def test_a_zip_can_be_read_and_laid_into_another(tmp_path: Path) -> None:
    contents = {"b/ü.txt": "ü".encode() * 1000, "a.py": b"", "b/a.so": os.urandom(70_000)}
    file = tmp_path / "one.zip"
    file.write_bytes(zips.write([zips.deflated(name, c, program=name.endswith(".so")) for name, c in contents.items()], "said"))
    assert zips.comment(file) == "said"
    again = zips.write(reversed(zips.entries(file)), "said")
    assert again == file.read_bytes()
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == sorted(contents)
        assert {name: archive.read(name) for name in contents} == contents
        assert archive.getinfo("b/a.so").external_attr >> 16 == 0o100755
    with pytest.raises(ValueError, match="one name"):
        zips.write([zips.deflated("a", b""), zips.deflated("a", b"")])
