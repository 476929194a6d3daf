"""Until a batch is forgotten its copy is not the row: nobody changes it at Main, and everybody changes all else."""

from itertools import product
from uuid import uuid4

import psycopg
import pytest

from tierkeeper.postgres.link import transaction

from .conftest import House

CHANGES = {
    "update": "UPDATE public.events SET body = 'changed' WHERE id = 1",
    "delete": "DELETE FROM public.events WHERE id = 1",
    "upsert": "INSERT INTO public.events VALUES (1, now(), NULL, 'y') ON CONFLICT (id) DO UPDATE SET body = 'changed'",
    "truncate": "TRUNCATE public.events",
}


@pytest.fixture
def copied(house: House) -> House:
    """Main with one row of a batch that is copied (1) and one of the application's own (2)."""
    house.set_up()
    house.main.execute("INSERT INTO public.events VALUES (2, now(), NULL, 'mine')")
    ledger = """
        INSERT INTO tierkeeper.ledger
            (batch, source, schema_name, table_name, age, cutoff, predicate, state, copy_xid, reader_seconds, settled_at)
        VALUES (%s, 'core', 'public', 'events', 'at', now(), 'true', 'copied', pg_current_xact_id(), 3600, clock_timestamp())
    """
    with transaction(house.main) as cur:
        cur.execute(ledger, [uuid4()])
        cur.execute("INSERT INTO public.events VALUES (1, now(), NULL, 'copy')")
    return house


def test_a_copy_in_flight_is_not_changed(copied: House) -> None:
    for state, change in product(("copied", "done"), CHANGES.values()):
        copied.main.execute("UPDATE tierkeeper.ledger SET state = %s", [state])
        with pytest.raises(psycopg.errors.ObjectInUse, match="is moving these rows") as told:
            copied.main.execute(change.encode())
        assert "query.timeout" in str(told.value.diag.message_hint)
        assert copied.main.execute("SELECT body FROM public.events ORDER BY id").fetchall() == [("copy",), ("mine",)]


def test_a_settled_copy_is_a_row_like_any_other(copied: House) -> None:
    for state, change in product(("undone", "forgotten"), CHANGES.values()):
        copied.main.execute("UPDATE tierkeeper.ledger SET state = %s", [state])
        _changes(copied, change)


def test_once_done_it_is_free_after_the_longest_reader(copied: House) -> None:
    copied.main.execute("UPDATE tierkeeper.ledger SET state = 'done', settled_at = clock_timestamp() - interval '3601 seconds'")
    for change in CHANGES.values():
        _changes(copied, change)


def test_a_copy_that_is_not_done_is_never_free(copied: House) -> None:
    copied.main.execute("UPDATE tierkeeper.ledger SET settled_at = NULL, opened_at = '2000-01-01', copied_at = '2000-01-01'")
    for change in reversed(CHANGES.values()):
        with pytest.raises(psycopg.errors.ObjectInUse):
            copied.main.execute(change.encode())


def _changes(house: House, change: str) -> None:
    """The change goes through; then it is taken back."""
    with house.main.transaction(force_rollback=True):
        house.main.execute(change.encode())
        assert ("copy",) not in house.main.execute("SELECT body FROM public.events").fetchall()


def test_rows_beside_it_are_free(copied: House) -> None:
    copied.main.execute("INSERT INTO public.events VALUES (3, now(), NULL, 'new')")
    assert copied.main.execute("UPDATE public.events SET body = 'still mine' WHERE id = 2").rowcount == 1
    assert copied.main.execute("UPDATE public.events SET body = 'again' WHERE id = 2").rowcount == 1
    assert copied.main.execute("DELETE FROM public.events WHERE id = 2").rowcount == 1


def test_a_movers_delete_passes_in_the_tables_that_it_names_alone(copied: House) -> None:
    delete = "DELETE FROM public.events WHERE id = 1"
    with copied.main.transaction(force_rollback=True):
        copied.main.execute("SELECT set_config('tierkeeper.leaving', '1,' || 'public.events'::regclass::oid, true)")
        assert copied.main.execute(delete.encode()).rowcount == 1
    with pytest.raises(psycopg.errors.ObjectInUse), copied.main.transaction():
        copied.main.execute("SELECT set_config('tierkeeper.leaving', 'public.kinds'::regclass::oid::text, true)")
        copied.main.execute(delete.encode())
    with pytest.raises(psycopg.errors.ObjectInUse):
        copied.main.execute(delete.encode())


def test_an_undo_passes_in_its_transaction_alone(copied: House) -> None:
    with transaction(copied.main) as cur:
        cur.execute("SELECT set_config('tierkeeper.mover', 'on', true)")
        cur.execute(CHANGES["update"].encode())
        cur.execute("UPDATE public.events SET body = 'copy' WHERE id = 1")
    copied.main.execute("UPDATE tierkeeper.ledger SET copy_xid = (SELECT xmin::text::xid8 FROM public.events WHERE id = 1)")
    with pytest.raises(psycopg.errors.ObjectInUse):
        copied.main.execute(CHANGES["delete"].encode())


def test_an_application_needs_no_right_to_the_ledger_and_cannot_fool_the_guard(copied: House) -> None:
    role = f"app_{uuid4().hex[:8]}"
    copied.main.execute(
        f"CREATE ROLE {role}; GRANT ALL ON public.events TO {role}; GRANT CREATE ON SCHEMA public TO {role}".encode()
    )
    try:
        copied.main.execute(f"SET ROLE {role}".encode())
        copied.main.execute(
            "CREATE FUNCTION public.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'on' $$"
        )
        copied.main.execute("SET search_path = public, pg_catalog")
        with pytest.raises(psycopg.errors.ObjectInUse):
            copied.main.execute(CHANGES["delete"].encode())
        assert copied.main.execute("DELETE FROM public.events WHERE id = 2").rowcount == 1
    finally:
        copied.main.execute("RESET ALL; RESET ROLE")
        copied.main.execute(f"DROP OWNED BY {role}; DROP ROLE {role}".encode())
