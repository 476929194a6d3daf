"""Tables whose entry says now this and now that, or is gone: no row is counted twice, none is hidden, none is overwritten.

What is counted are the user's own rows, in Core, at Main and in answers; nothing here reads the schema `tierkeeper`.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hop import BEFORE, T
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Faults, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.horizon import Horizon
from tierkeeper.mover.request import Bounds
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Connection
from tierkeeper.query.runner import FastDoor

M = TableName("public", "m")
MOVED = {"age": "at", "core": "30 days", "main": "60 days"}
MIRROR = {"mode": "mirror"}
MAKE = "CREATE TABLE {} (id int PRIMARY KEY, at timestamptz NOT NULL, v text)"
HIDDEN = "what Core has of it is not all"


@dataclass
class House:
    """Core and Main with the application's connections, and keepers for each thing that an entry of `m` may say."""

    tiers: Tiers
    core: Connection
    main: Connection
    keepers: dict[str, Keeper] = field(default_factory=dict)

    def mover(self, entry: Mapping[str, str] | None) -> Keeper:
        """A keeper for which a longest reader's time is a moment."""
        made = self.keeper(entry, "mover")
        made._bounds = Bounds(0.1)
        return made

    def keeper(self, entry: Mapping[str, str] | None, of: str = "reader") -> Keeper:
        """`m` has this entry."""
        said = f"{of} {json.dumps(entry)}"
        if said not in self.keepers:
            tables = [{"name": "public.t", **MOVED}, *([{"name": "public.m", **entry}] if entry is not None else [])]
            path = tierkeeper_toml(self.tiers, tables, query_timeout="30 seconds")
            kept = Path(shutil.copy(path, path.with_name(f"{len(self.keepers)}.toml")))
            self.keepers[said] = open_keeper(
                load(kept, self.tiers.environment, self.tiers.home), environment=self.tiers.environment
            )
        return self.keepers[said]

    def rows(self) -> tuple[list[Any], list[Any]]:
        """All of `m`, in Core and at Main."""
        found = [conn.execute("SELECT id, v FROM m ORDER BY id").fetchall() for conn in (self.core, self.main)]
        return found[0], found[1]

    def door(self) -> FastDoor:
        links = self.tiers.core, self.tiers.main, self.tiers.catalog
        scan = self.keeper(MOVED).archive.scan()
        return FastDoor(*links, [TablePolicy(M, age="at")], timeout_seconds=30, archive=scan)

    def settled(self) -> None:
        """As if the longest reader's time had passed since the rows came."""
        for link in (self.tiers.core, self.tiers.main, self.tiers.catalog):
            with closing(link.connect("test")) as conn:
                conn.execute("UPDATE tierkeeper.ledger SET settled_at = settled_at - interval '1 minute', reader_seconds = 0")


def answer(keeper: Keeper, statement: str = "SELECT id, v FROM m ORDER BY id") -> list[Any]:
    return [tuple(r.values()) for r in keeper.query(statement).to_pylist()]


@pytest.fixture
def house(tiers: Tiers) -> Iterator[House]:
    with closing(tiers.core.connect("test")) as core, closing(tiers.main.connect("test")) as main:
        for table in ("t", "m"):
            core.execute(MAKE.format(table).encode())
        made = House(tiers, core, main)
        made.keeper(MOVED).setup(apply=True)
        yield made
        faults.disarm()


def fill(house: House, at: str = "now()", v: str = "fresh") -> None:
    house.core.execute(f"INSERT INTO m SELECT i, {at}, '{v}' || i FROM generate_series(1, 9) AS i".encode())


def refused(keeper: Keeper, statement: str = "SELECT count(*) AS n FROM m") -> UsageError:
    with pytest.raises(UsageError) as raised:
        keeper.query(statement)
    assert "public.m" in raised.value.place
    assert HIDDEN in raised.value.cause
    return raised.value


# Rows that a mirror brings beside a horizon


def test_rows_that_a_mirror_brought_are_counted_once(house: House) -> None:
    """The horizon of the runs before says nothing of them, nor does one that is recorded while they come."""
    fill(house)
    keeper = house.keeper(MOVED)
    house.mover(MOVED).move(M, "core", "main", before=BEFORE)
    house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
    assert house.rows()[0] == house.rows()[1] != []
    expected = [(i, f"fresh{i}") for i in range(1, 10)]
    for _ in range(2):
        assert (answer(keeper), answer(keeper, "SELECT v FROM m WHERE id = 5")) == (expected, [("fresh5",)])
        assert house.mover(MOVED).move(M, "core", "main", before=BEFORE).rows == 0
    house.core.execute("UPDATE m SET v = 'newer' WHERE id = 5")
    assert answer(keeper, "SELECT v FROM m WHERE id = 5") == [("newer",)]
    house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
    assert answer(keeper, "SELECT v FROM m WHERE v IN ('newer', 'fresh5')") == [("newer",)]


@pytest.mark.long
@pytest.mark.parametrize("at_look", ["at_main", "found", "compared", "record"])
def test_a_mirror_amid_a_look_for_keys(house: House, monkeypatch: pytest.MonkeyPatch, at_look: str) -> None:
    """Whatever the run had asked already, its horizon says nothing of what the mirror brought meanwhile."""
    fill(house)
    keeper = house.keeper(MOVED)
    real, waiting = Horizon._sql, [at_look]

    def meanwhile(self: Horizon, name: str, **values: Any) -> Any:
        if self._shape.name == M and waiting == [name]:
            waiting.clear()
            house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
        return real(self, name, **values)

    monkeypatch.setattr(Horizon, "_sql", meanwhile)
    house.core.execute("INSERT INTO m VALUES (1000, '2024-01-01', 'old')")  # else nothing of Core's is looked for
    house.main.execute("INSERT INTO m VALUES (-1, now(), 'main'), (2000, now(), 'main')")
    with closing(house.tiers.core.connect("test")) as core, closing(house.tiers.main.connect("test")) as main:
        Horizon(core, main, shapes.read(core, M)).advance()
    assert waiting == []
    assert len(house.rows()[1]) == 12
    assert answer(keeper, "SELECT count(*) AS n FROM m") == [(12,)]


@pytest.mark.long
def test_a_mirror_that_brings_nothing_leaves_the_horizon(house: House) -> None:
    fill(house)
    keeper = house.keeper(MOVED)
    house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
    house.mover(MOVED).move(M, "core", "main", before=BEFORE)
    explain = lambda: house.door().explain("SELECT count(*) FROM m")[0]  # noqa: E731
    assert "keys written since transaction" in explain()
    house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
    assert "keys written since transaction" in explain()
    house.core.execute("INSERT INTO m VALUES (10, now(), 'more')")
    house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
    assert "all keys" in explain()
    assert len(answer(keeper)) == 10


# Rows that have moved, and an entry that does not say so


def moved(house: House) -> None:
    """Nine old rows at Main, and a new one in Core under the key of one of them."""
    fill(house, "timestamptz '2024-01-01'", "old")
    assert house.mover(MOVED).move(M, "core", "main", before=BEFORE).rows == 9
    house.core.execute("INSERT INTO m VALUES (5, now(), 'new')")


@pytest.mark.parametrize("entry", [pytest.param(MIRROR, marks=pytest.mark.long, id="mirror"), pytest.param(None, id="no-entry")])
def test_rows_that_have_moved_are_hidden_by_no_entry(house: House, entry: Mapping[str, str] | None) -> None:
    """No answer is given from a part of them, through whatever the statement names them; check and status name the table."""
    keeper = house.keeper(entry)
    fill(house)
    assert len(answer(keeper)) == 9
    house.core.execute("DELETE FROM m; CREATE VIEW seen AS SELECT * FROM m")
    house.core.execute("CREATE FUNCTION many() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM m'")
    moved(house)
    error = refused(keeper)
    assert (error.exit_code, 'mode = "move"' in error.remedy) == (2, True)
    for statement in ("SELECT * FROM t JOIN m USING (id)", "SELECT count(*) FROM seen", "SELECT * FROM t, seen"):
        refused(keeper, statement)
    with pytest.raises(UsageError, match="many"):
        keeper.query("SELECT many()")
    assert answer(keeper, "SELECT count(*) FROM t") == [(0,)]
    with pytest.raises(Faults) as raised:
        keeper.check()
    assert [e.place for e in raised.value.errors if HIDDEN in e.cause] == ["tables.public.m"]
    assert HIDDEN in (keeper.status().tables["public.m"].cause or "")
    assert len(answer(house.keeper(MOVED))) == 9
    assert house.keeper(MOVED).status().tables["public.m"].cause is None


@pytest.mark.long
def test_rows_in_the_archive_are_hidden_by_no_entry(house: House) -> None:
    moved(house)
    house.core.execute("DELETE FROM m")
    house.settled()
    house.keeper(MOVED).setup(apply=True)
    assert house.mover(MOVED).move(M, "main", "archive", before=BEFORE).rows == 9
    for entry in (MIRROR, None):
        assert "archive" in refused(house.keeper(entry)).cause
        assert HIDDEN in (house.keeper(entry).status().tables["public.m"].cause or "")
    house.core.execute("DROP TABLE m")
    assert any("public.m" in note for note in house.keeper(None).check().notes)


def test_a_mirror_touches_no_row_that_has_moved(house: House) -> None:
    """It is refused by name, before anything is changed; so is the run that would have brought it up to date."""
    moved(house)
    before = house.rows()
    with pytest.raises(UsageError) as raised:
        house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
    assert (raised.value.place, HIDDEN in raised.value.cause) == ("tables.public.m", True)
    assert house.rows() == before
    refused(house.keeper(MIRROR))
    assert answer(house.keeper(MOVED)) == [(i, "new" if i == 5 else f"old{i}") for i in range(1, 10)]


@pytest.mark.long
def test_rows_that_came_back_are_mirrored_and_answered(house: House) -> None:
    fill(house, "timestamptz '2024-01-01'", "old")
    keeper, mirror = house.keeper(MOVED), house.keeper(MIRROR)
    assert house.mover(MOVED).move(M, "core", "main", before=BEFORE).rows == 9
    house.settled()
    assert house.mover(MOVED).move(M, "main", "core", where="true").rows == 9
    for _ in range(2):
        assert len(answer(mirror)) == 9
        mirror.check()
        house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
        assert house.rows()[0] == house.rows()[1] != []
    house.core.execute("INSERT INTO m VALUES (10, '2024-01-01', 'more')")
    house.settled()
    assert (house.mover(MOVED).move(M, "core", "main", before=BEFORE).rows, len(answer(keeper))) == (1, 10)
    refused(mirror)


@pytest.mark.long
def test_a_run_that_moves_beside_a_mirror(house: House) -> None:
    """Another machine's entry says "move": its copies come while the mirror has read Core, and none of them is overwritten."""
    fill(house, "timestamptz '2024-01-01'", "old")
    keeper, seen = house.keeper(MOVED), []

    def beside(point: Point) -> None:
        if point is Point.SOURCE_READ and not seen:
            faults.disarm()
            with pytest.raises(TierkeeperError) as raised:
                house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
            seen.append(raised.value)

    faults.arm(beside)
    assert house.mover(MOVED).move(M, "core", "main", before=BEFORE).rows == 9
    assert (len(seen), HIDDEN in seen[0].cause) == (1, True)
    assert answer(keeper) == [(i, f"old{i}") for i in range(1, 10)]
    assert house.rows()[0] == []


def test_a_move_amid_a_mirror(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror has looked, and read Core, when rows move and are changed in the tier below: it overwrites none."""
    from tierkeeper.mover import mirror as at_work

    fill(house, "timestamptz '2024-01-01'", "old")
    keeper, real = house.keeper(MOVED), at_work._upsert

    def late(*args: Any) -> Any:
        monkeypatch.setattr(at_work, "_upsert", real)
        assert house.mover(MOVED).move(M, "core", "main", before=BEFORE).rows == 9
        house.settled()
        house.mover(MOVED).move(M, "core", "main", before=BEFORE)
        house.main.execute("UPDATE m SET v = 'changed' WHERE id = 5")
        return real(*args)

    monkeypatch.setattr(at_work, "_upsert", late)
    with pytest.raises(UsageError, match=HIDDEN):
        house.mover(MIRROR).move(T, "core", "main", before=BEFORE)
    assert answer(keeper) == [(i, "changed" if i == 5 else f"old{i}") for i in range(1, 10)]
