"""The configuration: precedence, references, and every fault at once at the place where it stands."""

from pathlib import Path

import pytest

from tierkeeper.config import Settings, folder, load
from tierkeeper.kernel.errors import Exit, Faults, TierkeeperError, UsageError
from tierkeeper.kernel.tables import TableName

SECRET = "s3cr3t-passw0rd"
URL = f"postgresql://u:{SECRET}@127.0.0.1:1/x"
TIERS = f"""
[tiers.core]
url = "{URL}"
[tiers.main]
url = "{URL}"
[tiers.archive]
catalog = "{URL}"
store = "store"
"""
ALONE = {"CORE_SUPABASE_URL": URL, "MAIN_SUPABASE_URL": URL, "ARCHIVE_SUPABASE_URL": URL, "ARCHIVE_PATH": "archive"}


def read(folder: Path, toml: str | None, environ: dict[str, str] | None = None, dotenv: str | None = None) -> Settings:
    if toml is not None:
        (folder / "tierkeeper.toml").write_text(toml)
    if dotenv is not None:
        (folder / ".env").write_text(dotenv)
    return load(None, environ or {}, folder)


def faults(folder: Path, toml: str | None, environ: dict[str, str] | None = None) -> dict[str, tuple[str, str]]:
    with pytest.raises(TierkeeperError) as caught:
        read(folder, toml, environ)
    errors = caught.value.errors if isinstance(caught.value, Faults) else (caught.value,)
    assert caught.value.exit_code is Exit.USAGE
    assert all(e.remedy and SECRET not in str(e) for e in errors)
    return {e.place: (e.cause, e.remedy) for e in errors}


def test_the_variables_of_the_users_document_alone_suffice(tmp_path: Path) -> None:
    limits = {"CORE_QUOTA_LIMIT": "400MB", "MAIN_QUOTA_LIMIT": "1GiB", "ARCHIVE_QUOTA_LIMIT": "2TB"}
    balance = {"LOAD_BALANCER_ALGORITHM": "adaptive", "HEALTH_CHECK_INTERVAL": "15", "MAX_RETRIES": "7"}
    settings = read(tmp_path, None, ALONE | limits | balance)
    assert settings.quotas_bytes() == {"core": 400_000_000, "main": 2**30, "archive": 2 * 10**12}
    assert settings.store_path == tmp_path / "archive"
    assert (settings.balance.algorithm, settings.balance.health_check_interval, settings.balance.max_retries) == (
        "adaptive",
        15,
        7,
    )
    assert settings.policies() == ()
    assert settings.query.timeout.seconds == 300


def test_no_configuration_at_all_names_what_is_missing(tmp_path: Path) -> None:
    found = faults(tmp_path, None)
    assert set(found) == {"CORE_SUPABASE_URL", "MAIN_SUPABASE_URL", "ARCHIVE_SUPABASE_URL", "ARCHIVE_PATH"}
    assert all(place in remedy for place, (_, remedy) in found.items())


def test_toml_beats_the_environment_and_the_environment_beats_dotenv(tmp_path: Path) -> None:
    toml = TIERS.replace("[tiers.main]", 'quota = "1MB"\n[tiers.main]')
    environ = {"CORE_QUOTA_LIMIT": "2MB", "MAIN_QUOTA_LIMIT": "2MB"}
    settings = read(tmp_path, toml, environ, dotenv="CORE_QUOTA_LIMIT=3MB\nMAIN_QUOTA_LIMIT=3MB\nARCHIVE_QUOTA_LIMIT='3MB'\n")
    assert settings.quotas_bytes() == {"core": 1_000_000, "main": 2_000_000, "archive": 3_000_000}


def test_the_file_is_the_flags_then_the_variables_then_the_folders(tmp_path: Path) -> None:
    for name, quota in (("flag", "1MB"), ("variable", "2MB"), ("tierkeeper", "3MB")):
        (tmp_path / f"{name}.toml").write_text(TIERS.replace("[tiers.main]", f'quota = "{quota}"\n[tiers.main]'))
    environ = {"TIERKEEPER_CONFIG": "variable.toml"}
    assert load(Path("flag.toml"), environ, tmp_path).tiers.core.quota_bytes == 1_000_000
    assert load(None, environ, tmp_path).tiers.core.quota_bytes == 2_000_000
    assert load(None, {}, tmp_path).tiers.core.quota_bytes == 3_000_000
    with pytest.raises(UsageError, match="--config"):
        load(Path("nowhere.toml"), environ, tmp_path)


def test_a_reference_reads_a_variable_also_from_dotenv(tmp_path: Path) -> None:
    toml = TIERS.replace(f'"{URL}"', '"env:SOMEWHERE"', 1).replace('"store"', '"env:DISK"')
    settings = read(tmp_path, toml, {"DISK": "/mnt/disk"}, dotenv=f'SOMEWHERE="{URL}?application_name=x"\n')
    assert settings.tiers.core.url.get_secret_value() == f"{URL}?application_name=x"
    assert settings.store_path == Path("/mnt/disk")


def test_a_reference_to_nothing_names_the_key_and_the_variable(tmp_path: Path) -> None:
    found = faults(tmp_path, TIERS.replace(f'"{URL}"', '"env:NOWHERE"', 1), {"NOWHERE": "  "})
    assert list(found) == ["tierkeeper.toml: tiers.core.url"]
    assert "NOWHERE" in found["tierkeeper.toml: tiers.core.url"][0]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    toml = """
[tiers.core]
url = "https://abcdefgh.supabase.co"
quota = "5 bananas"
[tiers.main]
url = "postgresql://u:p@db.example.org/x?sslmode=disable"
sslrootcert = "no-such-file.pem"
profile = "oracle"
[tiers.moon]
[[tables]]
name = "a.b"
core = "soon"
[[tables]]
name = "a.c"
core = "2 years"
main = "1 year"
[[tables]]
name = "a.d"
age = "at"
agee = "at"
[query]
timeout = "0 days"
[quotas]
start_at = "60%"
stop_at = "70%"
[alerts]
notify = "one"
[balance]
algorithm = "astrology"
max_retries = -1
[[balance.services]]
name = "api"
protocol = "http"
listen = "8080"
backends = ["10.0.0.1:80"]
"""
    found = faults(tmp_path, toml, {"HEALTH_CHECK_INTERVAL": "often"})
    assert set(found) == {
        *(
            f"tierkeeper.toml: tiers.{key}"
            for key in ("core.url", "core.quota", "main.url", "main.sslrootcert", "main.profile", "moon")
        ),
        "tierkeeper.toml: tiers.archive.catalog",
        "tierkeeper.toml: tiers.archive.store",
        *(f"tierkeeper.toml: tables[{key}" for key in ("0].core", "1].age", "1].main", "2].agee")),
        *(f"tierkeeper.toml: {key}" for key in ("query.timeout", "quotas.stop_at", "alerts.notify", "balance.algorithm")),
        "tierkeeper.toml: balance.max_retries",
        "tierkeeper.toml: balance.services[0].listen",
        "tierkeeper.toml: balance.services[0].backends[0]",
        "HEALTH_CHECK_INTERVAL",
    }
    assert "age" in found["tierkeeper.toml: tables[2].agee"][1]
    assert "Session pooler" in found["tierkeeper.toml: tiers.core.url"][1]


SERVICE = "[[balance.services]]\nname = 'x'\nprotocol = 'http'\nlisten = '127.0.0.1:80'\n"


@pytest.mark.parametrize(
    ("toml", "place"),
    [
        ("[tiers.core\n", "tierkeeper.toml: line 1, column 12"),
        ('[[tables]]\nname = "T"\nage = "a"\n[[tables]]\nname = "public.t"\nage = "a"\n', "tierkeeper.toml: tables"),
        ('[[tables]]\nname = "t"\nmode = "mirror"\ncore = "1 day"\n', "tierkeeper.toml: tables[0].mode"),
        ('[[tables]]\nname = "t"\nmode = "mirror"\ndrop_partitions = true\n', "tierkeeper.toml: tables[0].drop_partitions"),
        ('[[tables]]\nname = "tierkeeper.marker"\nage = "a"\n', "tierkeeper.toml: tables[0].name"),
        (
            '[[balance.services]]\nname = "x"\nprotocol = "tcp"\nlisten = "[::1]:80"\nbackends = []\n',
            "tierkeeper.toml: balance.services[0].backends",
        ),
        (
            f"{SERVICE}backends = [{{ url = 'http://a:1', weight = 0 }}]\n",
            "tierkeeper.toml: balance.services[0].backends[0].weight",
        ),
        (f"{SERVICE}backends = {[f'http://a:{n}' for n in range(1, 502)]}\n", "tierkeeper.toml: balance.services[0].backends"),
        (f"[balance]\nmetrics = '127.0.0.1:80'\n{SERVICE}backends = ['http://a:1']\n", "tierkeeper.toml: balance.metrics"),
        ("[balance]\nmax_retries = true\n", "tierkeeper.toml: balance.max_retries"),
        ("tables = 5\n", "tierkeeper.toml: tables"),
        ('[query]\ntimeout = "env:T"\n', "tierkeeper.toml: query.timeout"),
    ],
)
def test_a_fault_names_its_place(tmp_path: Path, toml: str, place: str) -> None:
    assert list(faults(tmp_path, toml, ALONE)) == [place]


def test_a_secret_in_the_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    cause, _ = faults(tmp_path, None, ALONE | {"CORE_QUOTA_LIMIT": URL})["CORE_QUOTA_LIMIT"]
    assert SECRET not in cause
    assert SECRET not in repr(read(tmp_path, None, ALONE))


def test_the_home_server_is_the_store_where_it_is_set(tmp_path: Path) -> None:
    settings = read(tmp_path, None, ALONE | {"HOME_SERVER_URL": "https://home.example.org", "HOME_SERVER_TOKEN": SECRET})
    assert settings.store_path is None
    assert settings.tiers.archive.store == "https://home.example.org"
    assert SECRET not in repr(settings)
    assert list(faults(tmp_path, None, ALONE | {"HOME_SERVER_URL": "your_home_server_url"})) == ["HOME_SERVER_URL"]


def test_policies_and_profiles(tmp_path: Path) -> None:
    tables = (
        '[[tables]]\nname = "Flights"\nage = "at"\ncore = "30 days"\nmain = "1 year"\n[[tables]]\nname = "s.m"\nmode = "mirror"\n'
    )
    environ = ALONE | {"CORE_SUPABASE_URL": "postgresql://u:p@aws-0.pooler.supabase.com:5432/postgres"}
    settings = read(tmp_path, tables, environ)
    moved, mirrored = settings.policies()
    assert (moved.name, moved.mode, moved.age) == (TableName("public", "flights"), "move", "at")
    assert (moved.core, moved.main) == (settings.tables[0].core, settings.tables[0].main)
    assert (mirrored.name, mirrored.mode, mirrored.age, mirrored.core) == (TableName("s", "m"), "mirror", None, None)
    assert (settings.tiers.core.profile, settings.tiers.main.profile) == ("supabase-free", None)
    assert settings.links(folder.pins({"HOME": str(tmp_path)}))["core"].parameters["sslmode"] == "verify-full"


def test_relative_paths_begin_where_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ca.pem").write_text("x")
    (tmp_path / "etc" / "t.toml").write_text(TIERS.replace("[tiers.main]", 'sslrootcert = "ca.pem"\n[tiers.main]'))
    settings = load(Path("etc/t.toml"), {}, tmp_path)
    assert settings.store_path == tmp_path / "etc" / "store"
    assert settings.links(folder.pins({"HOME": str(tmp_path)}))["core"].sslrootcert == str(tmp_path / "etc" / "ca.pem")


def test_a_certificate_that_an_address_names_lies_where_the_file_lies(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "ca.pem").write_text("x")
    (tmp_path / "etc" / "t.toml").write_text(TIERS.replace('1/x"', '1/x?sslrootcert=ca.pem"'))
    settings = load(Path("etc/t.toml"), {}, tmp_path)
    links = settings.links(folder.pins({"HOME": str(tmp_path)}))
    assert {link.parameters["sslrootcert"] for link in links.values()} == {str(tmp_path / "etc" / "ca.pem")}
    (tmp_path / "etc" / "ca.pem").unlink()
    found = faults(tmp_path, None, ALONE | {"CORE_SUPABASE_URL": f"{URL}?sslrootcert=ca.pem"})
    assert list(found) == ["CORE_SUPABASE_URL"]
    assert str(tmp_path / "ca.pem") in found["CORE_SUPABASE_URL"][0]


def test_a_broken_dotenv_names_its_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.env: line 2"):
        read(tmp_path, None, ALONE, dotenv="GOOD=1\nBAD='never closed\n")
