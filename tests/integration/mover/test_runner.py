"""A move on real Postgres, watched through the application's own connections (I1, I3, I4)."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg import errors

from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError
from tierkeeper.mover import snapshot
from tierkeeper.mover.model import Selection
from tierkeeper.mover.runner import Mover


def test_moves_what_is_old_and_nothing_else(pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]) -> None:
    pair.core.execute(
        "INSERT INTO public.events VALUES (5001, NULL, 'no age'), (5002, 'infinity', 'for ever'), (5003, '-infinity', 'ever')"
    )
    pair.core.execute("INSERT INTO public.events VALUES (5004, '2024-06-01 00:00+00', 'the cutoff itself stays')")
    before = pair.everywhere()

    outcome = mover().run(selection())

    assert pair.everywhere() == before
    assert [r[0] for r in pair.rows(pair.core)] == [5001, 5002, 5003, 5004]
    assert (outcome.rows, outcome.batches, outcome.stopped_because) == (1_000, 8, "complete")


def test_a_second_run_moves_nothing(mover: Callable[..., Mover], selection: Callable[..., Selection]) -> None:
    mover().run(selection())
    assert mover().run(selection()).batches == 0


def test_where_limits_the_rows(pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]) -> None:
    outcome = mover().run(selection("id % 10 = 0 -- tens"))
    assert outcome.rows == 100
    assert {r[0] % 10 for r in pair.rows(pair.main)} == {0}


def test_a_row_limit_stops_and_says_so(pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]) -> None:
    outcome = mover(limit=250).run(selection())
    assert (outcome.rows, outcome.stopped_because) == (250, "row limit")
    assert len(pair.rows(pair.core)) == 750


def test_a_key_in_both_tiers_is_named_and_stays(
    pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]
) -> None:
    pair.main.execute("INSERT INTO public.events VALUES (150, '2024-01-02', 'another story')")

    outcome = mover().run(selection())

    assert outcome.conflicts == ["150"]
    assert [r[0] for r in pair.rows(pair.core)] == [150]
    assert next(r for r in pair.rows(pair.main) if r[0] == 150)[2] == "another story"
    assert outcome.rows == 999


def test_a_trigger_that_changes_rows_at_main_stops_the_move(
    pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]
) -> None:
    pair.main.execute(
        "CREATE FUNCTION public.shout() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.body := upper(NEW.body); RETURN NEW; END'"
    )
    pair.main.execute("CREATE TRIGGER shout BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.shout()")
    before = pair.rows(pair.core)

    with pytest.raises(Failed, match="differs"):
        mover().run(selection())

    assert pair.rows(pair.core) == before
    assert pair.rows(pair.main) == []


def test_a_deferred_trigger_that_changes_rows_is_caught_too(
    pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]
) -> None:
    pair.main.execute(
        "CREATE FUNCTION public.later() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN UPDATE public.events SET body = ''changed'' WHERE id = NEW.id; RETURN NULL; END'"
    )
    pair.main.execute(
        "CREATE CONSTRAINT TRIGGER later AFTER INSERT ON public.events DEFERRABLE INITIALLY DEFERRED "
        "FOR EACH ROW WHEN (NEW.id = 77) EXECUTE FUNCTION public.later()"
    )
    pair.main.execute("DROP TRIGGER guard ON public.events")
    before = pair.rows(pair.core)
    with pytest.raises(Failed, match="differs"):
        mover().run(selection())
    assert pair.rows(pair.core) == before
    assert pair.rows(pair.main) == []


def test_a_full_disk_says_whose_it_is_and_leaves_no_copy(
    pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]
) -> None:
    pair.main.execute(
        "CREATE FUNCTION public.no_room() RETURNS trigger LANGUAGE plpgsql AS "
        "'BEGIN RAISE ''No space left on device'' USING ERRCODE = ''disk_full''; END'"
    )
    pair.main.execute("CREATE TRIGGER no_room BEFORE INSERT ON public.events FOR EACH ROW EXECUTE FUNCTION public.no_room()")
    with pytest.raises(NotNow, match=r"public\.events \(main\): No space left"):
        mover().run(selection())
    assert (len(pair.rows(pair.core)), pair.rows(pair.main)) == (1_000, [])


@pytest.mark.parametrize("error", [errors.DiskFull, errors.RaiseException])
def test_what_core_cannot_give_is_not_told_of_main(
    pair: Any,
    mover: Callable[..., Mover],
    selection: Callable[..., Selection],
    monkeypatch: pytest.MonkeyPatch,
    error: type[psycopg.Error],
) -> None:
    """Its rows are read within a transaction of Main's."""

    def no_room(*_: Any, **__: Any) -> Iterator[Any]:
        raise error("no room for a temporary file")
        yield

    with monkeypatch.context() as patch, pytest.raises(TierkeeperError) as told:
        patch.setattr(snapshot, "rows_out", no_room)
        mover().run(selection())
    assert told.value.place == "public.events (core)"
    assert (len(pair.rows(pair.core)), pair.rows(pair.main)) == (1_000, [])


def test_an_old_reader_at_main_holds_the_delete_back(
    pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]
) -> None:
    """I2: a reader whose snapshot at Main lacks the copy must still find the rows in Core."""
    with psycopg.connect(pair.tiers.main.uri) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        assert reader.execute("SELECT count(*) FROM public.events").fetchone() == (0,)

        outcome = mover().run(selection())

        assert outcome.stopped_because.startswith("waiting for a reader at main")
        assert len(pair.rows(pair.core)) == 1_000
    before_the_reader = pair.everywhere()
    outcome = mover().run(selection())
    assert (outcome.recovered, len(pair.everywhere()), len(pair.rows(pair.core))) == (4, 1_000, 0)
    assert len(before_the_reader) > 1_000  # copies in flight were there, and counted for nobody


def test_writes_to_a_copy_in_flight_are_refused(
    pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]
) -> None:
    """I4: until the move is settled for every reader, the copy is not the row."""
    with psycopg.connect(pair.tiers.main.uri) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        reader.execute("SELECT count(*) FROM public.events")
        mover().run(selection())
        with pytest.raises(psycopg.errors.ObjectInUse):
            pair.main.execute("UPDATE public.events SET body = 'x' WHERE id = 1")
        with pytest.raises(psycopg.errors.ObjectInUse):
            pair.main.execute("DELETE FROM public.events WHERE id = 1")


def test_a_destination_put_back_from_a_backup_is_noticed(
    pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]
) -> None:
    mover(limit=100).run(selection())
    pair.main.execute("DELETE FROM tierkeeper.ledger")
    with pytest.raises(Failed, match="put back from an older backup"):
        mover().run(selection())
    assert len(pair.rows(pair.core)) == 900


def test_a_second_mover_is_told_to_wait(pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]) -> None:
    pair.main.execute(
        "INSERT INTO tierkeeper.lease VALUES ('test', 'elsewhere/boot/pid:[1]/1/2/u', clock_timestamp() + interval '1 minute')"
    )
    with pytest.raises(NotNow, match="another run holds it"):
        mover().run(selection())


def test_nothing_is_lost_under_writers(pair: Any, mover: Callable[..., Mover], selection: Callable[..., Selection]) -> None:
    """I1, I4: the application updates, deletes and inserts old rows in Core while they are being moved."""
    pair.core.execute("INSERT INTO public.events SELECT i, '2024-02-01', 'old' FROM generate_series(2000, 9000) AS i")
    believed: dict[int, str | None] = {r[0]: r[2] for r in pair.everywhere()}
    stop = threading.Event()

    def write(share: int) -> None:
        with psycopg.connect(pair.tiers.core.uri, autocommit=True) as app:
            n = 0
            while not stop.is_set():
                n += 1
                key = 1 + (n * 7 + share) % 9_000
                if key % 2 != share:
                    continue
                new, body = 10_000 + n * 2 + share, f"writer {share} {n}"
                if app.execute("UPDATE public.events SET body = %s WHERE id = %s", (body, key)).rowcount:
                    believed[key] = body
                if n % 3 == 0 and app.execute("DELETE FROM public.events WHERE id = %s", (key,)).rowcount:
                    believed[key] = None
                if n % 2 == 0:
                    app.execute("INSERT INTO public.events VALUES (%s, '2024-03-01', %s)", (new, body))
                    believed[new] = body

    writers = [threading.Thread(target=write, args=(share,)) for share in (0, 1)]
    for thread in writers:
        thread.start()
    moved = 0
    for _ in range(4):
        moved += mover(batch_rows=500).run(selection()).rows
    stop.set()
    for thread in writers:
        thread.join()
    mover(batch_rows=500).run(selection())

    found = pair.everywhere()
    assert [(r[0], r[2]) for r in found] == sorted((k, v) for k, v in believed.items() if v is not None)
    assert moved > 0
