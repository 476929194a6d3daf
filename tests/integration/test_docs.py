"""The documents are true: every command in a block marked `sh` is run, in order, as a reader would run it.

Each page gets three tiers of its own with real flights in Core, the configuration that the README shows, and the user's
variables in the environment. A page that does not set them up itself finds them set up.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from support import LONGEST_READER, Tiers, TiersFactory, sampled
from tierkeeper.postgres.link import Link

ROOT = Path(__file__).parents[2]
RARE = (
    "bring-rows-back-to-core",
    "erase-a-person",
    "put-the-recovery-kit-away",
    "rebuild-the-catalog",
    "spend-the-least",
    "thaw-a-month",
)
"""Pages whose commands the tests of their own subjects type as well."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("howto/*.md")), *sorted((ROOT / "docs").glob("tutorial/*.md"))]
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


def run(script: str, tiers: Tiers) -> None:
    environment = {
        **tiers.environment,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "CORE_SUPABASE_URL": url(tiers.core),
        "MAIN_SUPABASE_URL": url(tiers.main),
        "ARCHIVE_SUPABASE_URL": url(tiers.catalog),
        "ARCHIVE_PATH": str(tiers.store),
    }
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


@pytest.mark.parametrize("page", sampled(PAGES, *DAILY), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_run_as_printed(page: Path, make_tiers: TiersFactory) -> None:
    scripts = [script for script in blocks(page, "sh") if script.strip()]
    if not scripts:
        pytest.skip("no command in it")
    furnish = write_the_configuration if any("setup --apply" in script for script in scripts) else set_up
    if NEEDS_ARCHIVE in page.read_text(encoding="utf-8"):
        assert furnish is set_up
        furnish = archive
    project = make_tiers(core="sample", furnish=furnish)
    for script in scripts:
        run(script, project)


def test_the_pages_have_commands() -> None:
    assert sum(len(blocks(page, "sh")) for page in PAGES) > 5
