"""Rows that go back from Main to Core: which, what is refused first, what readers and writers see meanwhile.

The oracle counts the application's own rows and never reads the schema `tierkeeper`.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
import pytest

from support import Tiers, eventually, sampled, tierkeeper_toml
from tierkeeper import config
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.request import Bounds
from tierkeeper.mover.service import MoveService
from tierkeeper.mover.worker import Pace
from tierkeeper.postgres.link import Connection, Link
from tierkeeper.query.runner import FastDoor

EVENTS = TableName("public", "events")
POLICY = (
    {"name": "public.kinds", "mode": "mirror"},
    {"name": "public.events", "age": "at", "core": "30 days", "main": "60 days"},
)
ROWS, SUM = 2000, 2000 * 2001 // 2
COUNT = "SELECT count(*) AS n, sum(id)::bigint AS s FROM public.events"
DAY = datetime(2024, 1, 31, tzinfo=UTC)  # 719 events are older
REST = 0.15
MOVER, READER = 0.1, 30.0
"""In the tests where nothing runs at once, rows rest for a moment and readers have time on a busy machine."""


@dataclass
class House:
    """Tiers whose older rows are at Main and at rest there, and connections of the application's own."""

    tiers: Tiers
    keeper: Keeper
    core: Connection
    main: Connection

    def ids(self, tier: str, where: str = "true") -> list[int]:
        conn = {"core": self.core, "main": self.main}[tier]
        return [int(str(r[0])) for r in conn.execute(f"SELECT id FROM public.events WHERE {where} ORDER BY id".encode())]

    def seen(self) -> tuple[int, int]:
        row = keeper_of(self.tiers, longest_reader_seconds=READER).query(COUNT).to_pylist()[0]
        return row["n"], row["s"]


def keeper_of(tiers: Tiers, *, longest_reader_seconds: float = MOVER, core: str = "500MB") -> Keeper:
    path = tierkeeper_toml(tiers, POLICY, quotas={"core": core})
    keeper = open_keeper(config.load(path, tiers.environment, tiers.home), environment=tiers.environment)
    keeper._bounds = Bounds(longest_reader_seconds, batch_rows=100)
    return keeper


@pytest.fixture
def house(make_tiers: Callable[..., Tiers]) -> Iterator[House]:
    tiers = make_tiers(core="events")
    keeper = keeper_of(tiers)
    keeper.setup(apply=True)
    keeper.move(EVENTS, "core", "main", before=DAY)
    time.sleep(REST)
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        yield House(tiers, keeper, core, main)
    faults.disarm()


def test_chosen_rows_come_back_and_policy_takes_them_down_again(house: House) -> None:
    outcome = house.keeper.move(EVENTS, "main", "core", where="id % 10 = 0")
    assert (outcome.rows, outcome.batches, outcome.stopped_because) == (71, 1, "complete")
    assert house.ids("main", "id % 10 = 0") == []
    assert house.ids("core", "id < 720") == list(range(10, 720, 10))
    assert house.seen() == (ROWS, SUM)
    assert any("leave core again by policy" in n for n in outcome.notes)

    patient = keeper_of(house.tiers, longest_reader_seconds=READER)
    resting = patient.move(EVENTS, "core", "main", before=DAY + timedelta(days=1))
    assert (resting.rows, resting.stopped_because) == (0, "resting: rows that came to core stay for 30 s (query.timeout)")
    time.sleep(REST)
    again = house.keeper.move(EVENTS, "core", "main", before=DAY + timedelta(days=1))
    assert (again.rows, again.conflicts) == (71 + 24, [])
    assert house.ids("main") == list(range(1, 744))
    assert house.seen() == (ROWS, SUM)
    # What has just come down is not turned round: a reader may still have it in its snapshot of Core.
    turned = patient.move(EVENTS, "main", "core", where="true")
    assert (turned.rows, turned.stopped_because.split(":")[0]) == (0, "resting")

    time.sleep(REST)
    oldest = house.keeper.move(EVENTS, "main", "core", before=DAY - timedelta(days=20), limit=50)
    assert (oldest.rows, oldest.stopped_because) == (50, "row limit")
    assert house.ids("core", "id < 720") == list(range(1, 51))


def refused(house: House, kind: type[TierkeeperError], match: str, *, keeper: Keeper | None = None, where: str = "true") -> str:
    """The remedy of the error that the move up and its plan both raise; nothing was written to Core."""
    for call in ((keeper or house.keeper).move, (keeper or house.keeper).plan_move):
        with pytest.raises(kind, match=match) as caught:
            call(EVENTS, "main", "core", where=where or None)
    assert house.core.execute("SELECT to_regproc('tierkeeper.refuse_copy_in_flight') IS NULL").fetchone() == (True,)
    assert len(house.ids("main")) == 719
    return caught.value.remedy


def test_what_may_not_come_back_is_refused_before_anything_is_written(house: House) -> None:
    """I9, I10: a full Core refuses with figures."""
    refused(house, UsageError, "nothing says which rows", where="")
    tight = keeper_of(house.tiers, core=f"{int(((house.keeper.status().tiers['core'].used_bytes or 0) + 60_000) / 0.85)}B")
    assert "--limit" in refused(house, Failed, r"719 rows bring about .* to core: more than 85%", keeper=tight)
    house.main.execute("ALTER TABLE public.events ADD COLUMN more int")
    with pytest.raises(UsageError, match="lacks the column 'more'"):
        house.keeper.move(EVENTS, "main", "core", where="true")
    house.main.execute("ALTER TABLE public.events DROP COLUMN more")

    # What is the same text in both tiers, and means something else there.
    house.core.execute("CREATE TYPE public.pair AS (a int, b int)")
    house.core.execute("CREATE TYPE public.mood AS ENUM ('good', 'bad')")
    house.core.execute("ALTER TABLE public.events ADD p public.pair, ADD m public.mood")
    house.keeper.setup(apply=True)
    swap = (
        "ALTER TYPE public.pair RENAME ATTRIBUTE a TO x CASCADE", "ALTER TYPE public.pair RENAME ATTRIBUTE b TO a CASCADE",
        "ALTER TYPE public.pair RENAME ATTRIBUTE x TO b CASCADE", "ALTER TYPE public.mood RENAME VALUE 'good' TO 'x'",
        "ALTER TYPE public.mood RENAME VALUE 'bad' TO 'good'", "ALTER TYPE public.mood RENAME VALUE 'x' TO 'bad'",
    )  # fmt: skip
    for renamed in swap:
        house.core.execute(renamed.encode())
    refused(house, TierkeeperError, r"(?s)its type public\.pair is .*its type public\.mood have another order")
    for renamed in swap:
        house.core.execute(renamed.encode())

    database = psycopg.sql.Identifier(house.tiers.core.parameters["dbname"])
    switch = psycopg.sql.SQL("ALTER DATABASE {} SET default_transaction_read_only = {}")
    house.core.execute(switch.format(database, psycopg.sql.SQL("on")))
    with pytest.raises(NotNow, match="read-only"):
        house.keeper.move(EVENTS, "main", "core", where="true")
    house.core.execute(switch.format(database, psycopg.sql.SQL("off")))

    house.core.execute("CREATE FUNCTION public.mail() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'")
    house.core.execute("CREATE TRIGGER mail AFTER INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.mail()")
    notes = tight.plan_move(EVENTS, "main", "core", where="true", limit=100).notes
    assert any(note.startswith("trigger mail at core fires on each row that arrives") for note in notes)
    assert tight.move(EVENTS, "main", "core", where="true", limit=100).rows == 100
    assert house.seen() == (ROWS, SUM)


def test_a_column_that_core_has_got_since_comes_up_with_its_value(house: House) -> None:
    """Main's is NULL where nobody gave it one; only such a row cannot come."""
    house.core.execute("ALTER TABLE public.events ADD COLUMN more int NOT NULL DEFAULT 7")
    house.keeper.setup(apply=True)
    notes = house.keeper.plan_move(EVENTS, "main", "core", where="id <= 10").notes
    assert "column more is NOT NULL in core: a row of main that lacks it stops the move" in notes
    house.main.execute("UPDATE public.events SET more = NULL WHERE id = 11")
    assert house.keeper.move(EVENTS, "main", "core", where="id <= 10").rows == 10
    assert house.core.execute("SELECT more, count(*) FROM public.events GROUP BY 1").fetchall() == [(7, ROWS - 709)]
    with pytest.raises(Failed, match=r'events \(core\): null value in column "more"'):
        house.keeper.move(EVENTS, "main", "core", where="id <= 11")
    assert house.seen() == (ROWS, SUM)


def test_what_arrives_is_weighed_about_right(house: House) -> None:
    """I9: the estimate against what the table really grows by, wide and toasted values and all."""
    house.main.execute(
        "UPDATE public.events SET body = (SELECT string_agg(md5(id::text || i), '') FROM generate_series(1, 100) i) "
        "WHERE id <= 300"
    )
    size = "SELECT pg_total_relation_size('public.events')"
    before = house.core.execute(size).fetchone()
    note = house.keeper.plan_move(EVENTS, "main", "core", where="true").notes[0]
    assert house.keeper.move(EVENTS, "main", "core", where="true").rows == 719
    after = house.core.execute(size).fetchone()
    assert before is not None
    assert after is not None
    grown = int(str(after[0])) - int(str(before[0]))
    amount, unit = note.split("bring about ")[1].split(" to core")[0].split()
    weighed = float(amount) * {"kB": 1e3, "MB": 1e6}[unit]
    assert 0.7 < weighed / grown < 1.5, (weighed, grown)


def test_a_key_that_core_uses_again_stays_below_and_is_named(house: House) -> None:
    house.core.execute("INSERT INTO public.events VALUES (7, '2024-03-30', 'a', 'again')")
    outcome = house.keeper.move(EVENTS, "main", "core", where="id <= 20")
    assert (outcome.rows, outcome.conflicts) == (19, ["7"])
    assert house.ids("main", "id <= 20") == [7]
    assert house.core.execute("SELECT body FROM public.events WHERE id = 7").fetchall() == [("again",)]
    assert house.keeper.status().tables["public.events"].conflicts == ['["7"]']
    assert house.seen() == (ROWS, SUM)  # Core's row counts, once
    later = house.keeper.move(EVENTS, "main", "core", where="id <= 20")
    assert (later.rows, later.conflicts) == (0, ["7"])


@pytest.mark.parametrize("point", sampled([Point.LEDGER_OPEN, Point.COPIED, Point.DELETED], Point.COPIED))
def test_a_run_the_other_way_settles_what_was_left(house: House, point: Point) -> None:
    """I5: else the rows of an interrupted move up would keep every later one waiting."""

    def die(reached: Point) -> None:
        if reached is point:
            raise KeyboardInterrupt

    faults.arm(die)
    with pytest.raises(KeyboardInterrupt):
        house.keeper.move(EVENTS, "main", "core", where="id <= 50")
    faults.disarm()
    assert house.seen() == (ROWS, SUM)
    for _ in range(2):  # where the delete had come through, the rows rest in Core first
        outcome = house.keeper.move(EVENTS, "core", "main", before=DAY)
        assert house.seen() == (ROWS, SUM)
        time.sleep(REST)
    assert outcome.stopped_because == "complete"
    assert house.ids("main") == list(range(1, 720))
    assert house.keeper.status().tables["public.events"].in_flight == 0


@pytest.mark.parametrize("wait", [True, False])
def test_a_reader_between_its_snapshots_sees_rows_that_go_up_once(
    house: House, monkeypatch: pytest.MonkeyPatch, *, wait: bool
) -> None:
    """I2: the reader's snapshot of Core lacks the copy; the delete at Main waits until that reader has ended."""
    reading, outcomes = FastDoor._reading, list[str]()

    def between(self: FastDoor, conn: Connection, link: Link) -> object:
        if link.tier == "main" and not outcomes:
            outcomes.append(house.keeper.move(EVENTS, "main", "core", where="id <= 300").stopped_because)
        return reading(self, conn, link)

    monkeypatch.setattr(FastDoor, "_reading", between)
    monkeypatch.setattr(MoveService, "_pace", lambda *_: Pace(100, 0.1, patience_seconds=0.2))
    if wait:
        assert house.seen() == (ROWS, SUM)
    else:  # the planted fault: rows are in neither snapshot, and Core seems to have forgotten them
        monkeypatch.setattr(PostgresDestination, "settled_for_readers", lambda *_: None)
        with pytest.raises(Failed, match="core knows nothing of"):
            house.seen()
    assert outcomes[0].startswith("waiting for a reader at core" if wait else "complete")


def test_writes_to_a_copy_in_core_are_refused_until_it_is_forgotten(house: House) -> None:
    """I4: an application that changes the copy would change what may still be taken back."""
    hints = list[str]()

    def write(reached: Point) -> None:
        if reached is Point.COPIED:
            for deed in ("UPDATE public.events SET body = 'x' WHERE id = 5", "DELETE FROM public.events WHERE id = 5"):
                with psycopg.connect(house.tiers.core.uri, autocommit=True) as app:
                    try:
                        app.execute(deed.encode())
                    except psycopg.errors.ObjectInUse as error:
                        hints.append(str(error.diag.message_hint))

    faults.arm(write)
    assert house.keeper.move(EVENTS, "main", "core", where="id <= 10").rows == 10
    assert len(hints) == 2
    time.sleep(REST)
    house.core.execute("UPDATE public.events SET body = 'x' WHERE id = 5")
    assert house.seen() == (ROWS, SUM)


def test_a_row_that_changes_at_main_meanwhile_keeps_its_change(house: House) -> None:
    """I4: the batch is tried again with the row as it is."""
    faults.arm(lambda p: house.main.execute("UPDATE public.events SET body = 'new' WHERE id = 5") if p is Point.WAITED else None)
    house.keeper.move(EVENTS, "main", "core", where="id <= 10")
    faults.disarm()
    house.keeper.move(EVENTS, "main", "core", where="id <= 10")
    assert house.ids("core", "id <= 10") == list(range(1, 11))
    assert house.core.execute("SELECT body FROM public.events WHERE id = 5").fetchall() == [("new",)]


def until(ended: threading.Event, work: Callable[[], None], failed: list[BaseException]) -> None:
    """Does `work` again and again; its error is for the test's own thread to tell."""
    try:
        while not ended.is_set():
            work()
    except BaseException as error:  # noqa: BLE001
        failed.append(error)


@pytest.mark.long
def test_readers_and_writers_while_rows_go_up_and_down(house: House) -> None:
    """I1, I2, I4: every answer is the application's own count; what it wrote is there at the end, once."""
    keeper = keeper_of(house.tiers, longest_reader_seconds=1)
    ended, failed = threading.Event(), list[BaseException]()
    answers, moved = list[tuple[int, int] | None](), {"main": 0, "core": 0}
    written: dict[int, str] = {}

    def guarded(work: Callable[[], None]) -> threading.Thread:
        return threading.Thread(target=until, args=(ended, work, failed))

    def ask() -> None:
        try:
            row = keeper.query(COUNT).to_pylist()[0]
            answers.append((row["n"], row["s"]))
        except NotNow:
            answers.append(None)

    def go(source: str, destination: str, **which: object) -> Callable[[], None]:
        def one() -> None:
            with suppress(NotNow):  # the run the other way holds the lease
                moved[destination] += keeper.move(EVENTS, source, destination, **which).rows  # type: ignore[arg-type]
            ended.wait(0.3)

        return one

    def writer(link: Link, share: int) -> Callable[[], None]:
        n = [0]

        def write() -> None:
            n[0] += 1
            key, body = 1 + (n[0] * 14 + share) % 719, f"{link.tier} {n[0]}"
            with psycopg.connect(link.uri, autocommit=True) as app, suppress(psycopg.errors.ObjectInUse):
                if app.execute("UPDATE public.events SET body = %s WHERE id = %s", (body, key)).rowcount:
                    written[key] = body
            ended.wait(0.01)

        return write

    threads = [
        guarded(ask), guarded(go("main", "core", where="id % 3 = 0")), guarded(go("core", "main", before=DAY)),
        guarded(writer(house.tiers.core, 0)), guarded(writer(house.tiers.main, 7)),
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    eventually(lambda: bool(failed) or (min(moved.values()) > 100 and len(answers) - answers.count(None) >= 10), seconds=60)
    ended.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert set(answers) - {None} == {(ROWS, SUM)}
    assert min(moved.values()) > 0, moved
    time.sleep(1.1)
    assert keeper.move(EVENTS, "core", "main", before=DAY).stopped_because == "complete"
    found = {}
    for conn in (house.core, house.main):
        for key, body in conn.execute("SELECT id, body FROM public.events").fetchall():
            assert key not in found, f"{key} is there twice"
            found[key] = body
    assert sorted(found) == list(range(1, ROWS + 1))
    assert {k: found[k] for k in written} == written
