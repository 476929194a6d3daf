"""The documents are true: every command in a block marked `sh` is run, in order, as a reader would run it.

Each page gets three tiers of its own with real flights in Core, the configuration that the README shows, and the user's
variables in the environment. A page that does not set them up itself finds them set up. The tutorial begins with a server that
has nothing on it but a superuser.
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

import processes
from support import LONGEST_READER, DatabaseFactory, Tiers, TiersFactory, sampled
from tierkeeper.demo.runtime import find_runtime
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.postgres.link import Link

ROOT = Path(__file__).parents[2]
RARE = (
    "bring-rows-back-to-core",
    "erase-a-person",
    "keep-the-archive-at-home",
    "let-it-run-by-itself",
    "let-the-archive-forget",
    "put-the-recovery-kit-away",
    "rebuild-the-catalog",
    "rotate-the-keys",
    "spend-the-least",
    "survive-read-only",
    "thaw-a-month",
)
"""Pages whose commands the tests of their own subjects type as well."""
AS_INSTALLED = ("keep-the-archive-at-home", "watch-it-on-a-page")
"""Pages whose commands are the installed program, each started anew: they end by its number what they began."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("howto/*.md"))]
TUTORIAL = ROOT / "docs" / "tutorial" / "twenty-minutes.md"
MOVING = ROOT / "docs" / "howto" / "move-to-a-new-server.md"
DAILY = [p for p in PAGES if p.stem not in RARE]
NEEDS_ARCHIVE = "tested with rows in the archive"


def blocks(page: Path, language: str) -> list[str]:
    """The page's blocks in `language`, without the lines that set up or test this repository itself."""
    found = re.findall(rf"^```{language}\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return ["".join(line for line in block.splitlines(keepends=True) if not line.startswith("make ")) for block in found]


def url(link: Link) -> str:
    return f"{link.url}?sslrootcert={link.sslrootcert}"


def write_the_configuration(tiers: Tiers) -> None:
    """The README's tierkeeper.toml; rows rest for a second instead of five minutes."""
    (shown, *_) = blocks(ROOT / "README.md", "toml")
    text = f'{shown}\n[query]\ntimeout = "{LONGEST_READER}"\n'
    (tiers.home / "tierkeeper.toml").write_text(text, encoding="utf-8")


def set_up(tiers: Tiers) -> None:
    write_the_configuration(tiers)
    run("tierkeeper setup --apply", tiers)


def archive(tiers: Tiers) -> None:
    set_up(tiers)
    run("tierkeeper quota", tiers)


@pytest.fixture(scope="module")
def forked(server_folder: Path) -> Iterator[Path]:
    """Commands that start in a twentieth of the time."""
    folder = server_folder / "commands"
    folder.mkdir()
    with processes.served(folder) as ready:
        yield ready


def run(script: str, tiers: Tiers, *programs: Path, variables: Mapping[str, str] | None = None) -> None:
    """With the user's four variables, or `variables` in their place; psql and its like are the servers' own.

    What lies in the folders `programs` goes before what is installed.
    """
    if variables is None:
        variables = {
            "CORE_SUPABASE_URL": url(tiers.core),
            "MAIN_SUPABASE_URL": url(tiers.main),
            "ARCHIVE_SUPABASE_URL": url(tiers.catalog),
            "ARCHIVE_PATH": str(tiers.store),
        }
    path = (*programs, Path(sys.executable).parent, find_runtime().bin_dir, os.environ["PATH"])
    environment = {**tiers.environment, "PATH": os.pathsep.join(map(str, path)), **variables}
    ran = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=tiers.home,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, f"{script}\n{ran.stdout}\n{ran.stderr}"


@pytest.mark.parametrize("page", sampled([p for p in PAGES if p != MOVING], *DAILY), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run_as_printed(page: Path, make_tiers: TiersFactory, forked: Path) -> None:
    scripts = [script for script in blocks(page, "sh") if script.strip()]
    if not scripts:
        pytest.skip("no command in it")
    furnish = write_the_configuration if any("setup --apply" in script for script in scripts) else set_up
    if NEEDS_ARCHIVE in page.read_text(encoding="utf-8"):
        assert furnish is set_up
        furnish = archive
    project = make_tiers(core="sample", furnish=furnish)
    for script in scripts:
        run(script, project, *(() if page.stem in AS_INSTALLED else (forked,)))


def with_rows_at_main(tiers: Tiers) -> None:
    set_up(tiers)
    run("tierkeeper move public.flights --from core --to main --before 2013-06-01", tiers)


@pytest.mark.long
def test_main_moves_to_another_server(make_tiers: TiersFactory, database_factory: DatabaseFactory, forked: Path) -> None:
    """I1, and every row once: the page compares the answers of before and after; Main's own rows are counted here."""
    tiers = make_tiers(core="sample", furnish=with_rows_at_main)
    new = Link("main", database_factory("new_main"), tiers.main.sslrootcert)
    at_rest, copy, *afterwards = blocks(MOVING, "sh")
    run(f"{at_rest}\nexport NEW_MAIN_URL='{url(new)}'\n{copy}", tiers, forked)
    assert count(new) == count(tiers.main) > 0
    with closing(tiers.main.connect("test")) as conn:
        conn.execute("DROP TABLE public.flights")  # from here on a row that is read there would be missed
    run("\n".join(afterwards), replace(tiers, main=new), forked)


def count(link: Link, table: str = "public.flights") -> int:
    with closing(link.connect("test")) as conn:
        (rows,) = conn.execute(f"SELECT count(*) FROM {table}".encode()).fetchone() or (0,)
        return int(str(rows))


@pytest.fixture
def box(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """The server at home."""
    with EmbeddedPostgres.start(server_folder / "box") as server:
        yield server


@pytest.mark.long
def test_the_tutorial_can_be_followed(make_tiers: TiersFactory, box: EmbeddedPostgres, forked: Path) -> None:
    tiers = make_tiers()
    home = f"postgresql://tierkeeper:choose-a-long-one@localhost:{box.port}"
    (tiers.home / ".env").write_text(
        f"CORE_SUPABASE_URL='{url(tiers.core)}'\nMAIN_SUPABASE_URL='{home}/main'\n"
        f"ARCHIVE_SUPABASE_URL='{home}/catalog'\nARCHIVE_PATH='archive'\n"
    )
    admin = box.link("admin").parameters
    superuser = {f"PG{name.upper()}": admin[name] for name in ("host", "port", "user", "password")}
    script = "\n".join(blocks(TUTORIAL, "sh")).replace("20 seconds", LONGEST_READER).replace("sleep 20", "sleep 2")
    script += "\ntierkeeper query 'SELECT count(*) FROM public.readings' --format csv > counted.csv"
    run(script, tiers, forked, variables=superuser)
    assert (tiers.home / "counted.csv").read_text().split() == ['"count"', "210000"]
    assert 8_000 < count(tiers.core, "public.readings") < 9_000
    assert 96_000 < count(Link("main", f"{home}/main"), "public.readings") < 97_000


def test_the_pages_have_commands() -> None:
    assert sum(len(blocks(page, "sh")) for page in PAGES) > 5
