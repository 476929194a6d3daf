"""A world whose mover is killed: its command line, the application's view of its rows, and what must hold of them after."""

import json
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import processes
from processes import Ended
from support import Tiers, tierkeeper_toml
from tierkeeper.kernel.errors import Exit, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.postgres.link import Connection
from tierkeeper.query.runner import FastDoor

END_RECORDS: Final = r"""
    SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND query ~ 'INTO tierkeeper.horizon \([^)]*\)\s+VALUES'
"""
"""Ends who records, or has recorded, a horizon; Core's word that a table was looked at is another statement."""
POLICY = (
    {"name": "public.kinds", "mode": "mirror"},
    {"name": "public.events", "age": "at", "core": "30 days", "main": "60 days"},
)
Row = tuple[int, str, str]


@dataclass
class World:
    """Three tiers with rows in Core, a configuration, and the application's own view of its rows."""

    tiers: Tiers
    config: Path

    def command(self, *arguments: str, die_at: Point | None = None) -> Ended:
        return processes.command([*arguments, "--config", str(self.config), "--json"], self.tiers.environment, die_at=die_at)

    def move(self, destination: str, die_at: Point | None = None) -> Ended:
        source = {"main": "core", "archive": "main", "core": "main"}[destination]
        which = ("--where", "id % 7 = 0") if destination == "core" else ("--before", "2024-02-20")
        return self.command("move", "public.events", "--from", source, "--to", destination, *which, die_at=die_at)

    def online(self) -> dict[str, "Counter[Row]"]:
        found = {}
        for link in (self.tiers.core, self.tiers.main):
            with closing(link.connect("oracle")) as conn:
                there = conn.execute("SELECT to_regclass('public.events') IS NOT NULL").fetchone() == (True,)
                rows = conn.execute("SELECT id, at::text, body FROM public.events").fetchall() if there else []
                found[link.tier] = Counter((int(str(r[0])), str(r[1]), str(r[2])) for r in rows)
        return found

    def archived(self) -> "Counter[Row]":
        """What `archive restore` gives back."""
        out = self.tiers.home / "restored.csv"
        out.unlink(missing_ok=True)
        done = self.command("archive", "restore", "public.events", "--to", str(out))
        if done.returncode == 2 and "no segment" in done.stdout:
            return Counter()
        assert done.returncode == 0, done.stdout + done.stderr
        with closing(self.tiers.core.connect("oracle")) as conn, conn.cursor() as cur:
            cur.execute("CREATE TEMP TABLE back (id bigint, at timestamptz, kind text, body text)")
            with cur.copy("COPY back FROM STDIN (FORMAT csv, HEADER)") as copy:
                copy.write(out.read_bytes())
            return Counter(
                (int(str(r[0])), str(r[1]), str(r[2])) for r in conn.execute("SELECT id, at::text, body FROM back").fetchall()
            )

    def count_by_query(self) -> int:
        for _ in range(5):
            answer = self.command("query", "SELECT count(*) AS n FROM public.events", "--format", "json")
            if answer.returncode != Exit.NOT_NOW:  # an honest answer on a busy machine
                break
        assert answer.returncode == 0, answer.stdout + answer.stderr
        return int(json.loads(answer.stdout)[0]["n"])

    def count_alone(self) -> int | None:
        """As a reader without an entry for the table, and without the archive, counts; None where it refuses to."""
        try:
            return int(alone(self.tiers).query("SELECT count(*) AS n FROM public.events").to_pylist()[0]["n"])
        except UsageError:
            return None


def alone(tiers: Tiers) -> FastDoor:
    """A reader whose configuration has no entry for any table: it takes Core's rows for all that there are, or refuses to."""
    return FastDoor(tiers.core, tiers.main, tiers.catalog, [], timeout_seconds=30, archive=None)


@contextmanager
def records_held_up(core: Connection) -> Iterator[None]:
    """Whoever records a horizon waits within the block; Core's word that a table was looked at goes through."""
    core.execute("""
        CREATE FUNCTION public.held_up() RETURNS trigger LANGUAGE plpgsql AS
            $$ BEGIN IF new.key_columns <> '{}' THEN PERFORM pg_advisory_xact_lock(77); END IF; RETURN new; END $$;
        CREATE TRIGGER held_up BEFORE INSERT ON tierkeeper.horizon FOR EACH ROW EXECUTE FUNCTION public.held_up();
        SELECT pg_advisory_lock(77)
    """)
    yield
    core.execute("DROP TRIGGER held_up ON tierkeeper.horizon; SELECT pg_advisory_unlock(77)")


def world_of(tiers: Tiers) -> World:
    """Rows rest for a second at Main."""
    return World(tiers, tierkeeper_toml(tiers, POLICY, query_timeout="1 second"))


def furnish(tiers: Tiers) -> None:
    """Everything that a move needs is there."""
    done = world_of(tiers).command("setup", "--apply")
    assert done.returncode == 0, done.stdout + done.stderr


def rest(world: World) -> None:
    """Until the rows at Main have outlived every reader."""
    del world
    time.sleep(1.1)


def check_nothing_lost(world: World, original: "Counter[Row]") -> None:
    """I1: every row is somewhere, as it was; I2: the reader's count is the original's, also with a batch in flight."""
    online, archived = world.online(), world.archived()
    missing = original - (online["core"] | online["main"] | archived)
    assert not missing, f"{len(missing)} rows are nowhere"
    assert world.count_by_query() == original.total()
    assert archived or world.count_alone() in {None, original.total()}, "a reader without an entry took a part for the whole"


def check_as_undisturbed(world: World, original: "Counter[Row]", destination: str) -> None:
    """I5: each row once, in the tier where an undisturbed run would have put it."""
    online, archived = world.online(), world.archived()
    back = destination == "core"
    old = Counter({r: n for r, n in original.items() if r[1] < "2024-02-20" and not (back and r[0] % 7 == 0)})
    assert online["core"] == original - old
    below = {"main": online["main"], "archive": archived}
    assert below["main" if back else destination] == old
    assert sum((online["core"], online["main"], archived), Counter()) == original
