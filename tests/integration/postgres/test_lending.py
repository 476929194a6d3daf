"""Connections that the parts of a run use one after the other."""

import contextlib
import os
import time
import warnings
from collections.abc import Callable
from contextlib import closing
from threading import Thread

import psycopg
import pytest
from psycopg import sql

from faultproxy import FaultProxy
from hosted import Hosted
from support import Tiers, eventually
from tierkeeper.kernel.errors import Failed, NotNow
from tierkeeper.postgres import lending
from tierkeeper.postgres.keeping import lent_by, looking, sharing
from tierkeeper.postgres.link import Connection, Link, take_own_path, transaction, translated
from tierkeeper.postgres.session import Session

NAMED = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tierkeeper trial' AND datname = current_database()"


def _used(link: Link, purpose: str, use: Callable[[Connection], object] = lambda _: None) -> int:
    """Which session a user of this purpose was given."""
    with closing(link.connect(purpose)) as conn:
        use(conn)
        return conn.info.backend_pid


def _writes(conn: Connection) -> None:
    with transaction(conn) as cur:
        cur.execute("SELECT 1")


def _reads(conn: Connection) -> None:
    with transaction(conn, read_only=True) as cur:
        cur.execute("SELECT 1")


def _deletes(conn: Connection) -> None:
    with transaction(conn, own_path=True) as cur:
        cur.execute("SELECT 1")


def _runs_a_trigger(conn: Connection) -> None:
    with transaction(conn) as cur:
        take_own_path(cur)


def _cancels(conn: Connection) -> None:
    conn.cancel_safe()


def _rebuilds(conn: Connection) -> None:
    """Postgres lets no transaction be around it, and calls the user's event triggers."""
    conn.execute("REINDEX INDEX CONCURRENTLY public.t_pkey")


def test_the_parts_of_a_run_share_one_session_whatever_they_read_or_write_of_ours(tiers: Tiers) -> None:
    with sharing("trial"):
        first = _used(tiers.core, "usage", _writes)
        for purpose, use in (("setup", _reads), ("audit", _writes), ("mover", _writes), ("vacuum", _reads)):
            assert _used(tiers.core, purpose, use) == first
        with looking():
            assert _used(tiers.core, "budget", _reads) == first
        with looking(), pytest.raises(Failed):  # of a plan or a report, which writes nothing
            _used(tiers.core, "usage", _writes)
        assert _used(tiers.main, "usage") != first
        with closing(tiers.core.connect("mover")) as conn, closing(tiers.core.connect("usage")) as other:
            assert conn.info.backend_pid != other.info.backend_pid, "one that is in use was given away"
            assert (other.execute(NAMED).fetchone() or (0,))[0] == 2
            with transaction(conn) as cur:
                locks = cur.execute(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()"
                ).fetchone()
            assert locks == (1,), "a mover's snapshots could not be told from a reader's"
    with closing(tiers.core.connect("usage")) as conn:
        assert eventually(lambda: conn.execute(NAMED).fetchone() == (0,)), "its run is over"
    assert _used(tiers.core, "usage") != first


def test_what_a_program_forks_dials_for_itself(tiers: Tiers) -> None:
    """Two processes that speak over one connection would each get the other's rows."""
    with sharing("trial"):
        first = _used(tiers.core, "usage")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of other threads, which hold nothing here
            child = os.fork()
        if not child:
            with contextlib.suppress(BaseException):
                own = _used(tiers.core, "usage")
                os._exit(23 if own != first and _used(tiers.core, "usage") == own else 1)
            os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 23
        assert _used(tiers.core, "usage") == first, "the child has ended it"


def test_one_that_a_cancel_was_sent_after_is_nobody_elses(tiers: Tiers) -> None:
    with sharing("trial"):
        assert _used(tiers.core, "usage", _cancels) != _used(tiers.core, "usage")


@pytest.mark.parametrize(
    ("purpose", "use"), [("mover", _deletes), ("mover", _runs_a_trigger), ("vacuum", _writes), ("setup", _writes)]
)
def test_what_a_user_may_have_left_something_in_is_made_new(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch, purpose: str, use: Callable[[Connection], object]
) -> None:
    renewed, renew = list[int](), lending.Lent.renew
    monkeypatch.setattr(lending.Lent, "renew", lambda conn: renewed.append(conn.info.backend_pid) or renew(conn))
    with sharing("trial"):
        first = _used(tiers.core, purpose, use)
        assert renewed == [first]
        assert _used(tiers.core, "usage") == first


LEFT = """
    CREATE FUNCTION public.leave() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        CREATE TEMP TABLE IF NOT EXISTS left_over (a int);
        LISTEN left_over;
        EXECUTE 'PREPARE left_over AS SELECT 1';
        EXECUTE 'DECLARE left_over CURSOR WITH HOLD FOR SELECT 1';
        PERFORM pg_advisory_lock(7), nextval('public.s'), set_config('tierkeeper.leaving', '1', false),
                set_config('statement_timeout', '1min', false), set_config('search_path', 'elsewhere', false),
                set_config('session_authorization', 'pg_monitor', false), set_config('role', 'pg_monitor', false);
        RETURN NEW;
    END $$;
    CREATE SEQUENCE public.s;
    CREATE TABLE public.t (a int);
    CREATE TRIGGER leave BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.leave()
"""
IS_LEFT = """
    SELECT current_user, session_user, current_setting('statement_timeout'),
           coalesce(current_setting('tierkeeper.leaving', true), ''),
           current_setting('search_path'), ARRAY(SELECT pg_listening_channels()), to_regclass('pg_temp.left_over'),
           (SELECT count(*) FROM pg_prepared_statements), (SELECT count(*) FROM pg_cursors WHERE is_holdable),
           (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid())
"""


def test_nothing_that_a_trigger_of_the_users_left_is_there_for_the_next(tiers: Tiers) -> None:
    """The role that the login itself takes up stays taken up."""
    with closing(tiers.core.connect("oracle")) as oracle:
        oracle.execute(LEFT)
        user, database = (sql.Identifier(tiers.core.parameters[part]) for part in ("user", "dbname"))
        oracle.execute(sql.SQL("ALTER ROLE {} IN DATABASE {} SET role = 'pg_read_all_stats'").format(user, database))
        oracle.execute("GRANT ALL ON public.t, public.s TO pg_read_all_stats")
        with closing(tiers.core.connect("another")) as fresh:
            new = fresh.execute(IS_LEFT).fetchall()
        with sharing("trial"):
            with closing(tiers.core.connect("mover")) as conn:
                with transaction(conn, own_path=True) as cur:
                    cur.execute("INSERT INTO public.t VALUES (1)")
                left = conn.execute(IS_LEFT).fetchall()
                pid = conn.info.backend_pid
            counted = oracle.execute("SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 't'").fetchone()
            with closing(tiers.core.connect("usage")) as conn:
                assert conn.info.backend_pid == pid
                assert conn.execute(IS_LEFT).fetchall() == new
                with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
                    conn.execute("SELECT currval('public.s')")
    assert [(was, now) for was, now in zip(left[0], new[0], strict=True) if was == now] == [], "all of it was left"
    assert counted == (1,), "what was written is counted at once, as of a session that has ended"


AT_LOGIN = """
    CREATE FUNCTION public.welcome() RETURNS event_trigger LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config('tenant.name', 'whoever', false); END $$;
    CREATE EVENT TRIGGER welcome ON login EXECUTE FUNCTION public.welcome()
"""


def test_what_a_trigger_does_at_login_the_next_finds_done(tiers: Tiers) -> None:
    """The user's triggers may go by it: what makes a session new takes it out."""
    with closing(tiers.core.connect("oracle")) as oracle:
        oracle.execute(AT_LOGIN)
    with sharing("trial"):
        for _ in range(2):
            with closing(tiers.core.connect("mover")) as conn, transaction(conn, own_path=True) as cur:
                assert cur.execute("SELECT current_setting('tenant.name', true)").fetchone() == ("whoever",)


def test_what_a_poolers_other_clients_have_set_stays_theirs(supabase_free: Hosted) -> None:
    with closing(supabase_free.pooled.connect("another")) as conn:
        conn.execute("SET statement_timeout = '1min'")
    with sharing("trial"):
        assert _used(supabase_free.pooled, "mover", _deletes) != _used(supabase_free.pooled, "mover", _runs_a_trigger)
    assert supabase_free.leaks() == ["setting statement_timeout=60000"]


def test_what_an_event_trigger_of_the_users_has_set_is_nobody_elses(tiers: Tiers) -> None:
    with closing(tiers.core.connect("oracle")) as oracle:
        oracle.execute("""
            CREATE TABLE public.t (a int CONSTRAINT t_pkey PRIMARY KEY);
            CREATE FUNCTION public.f() RETURNS event_trigger LANGUAGE plpgsql
                AS $$ BEGIN PERFORM set_config('role', 'pg_monitor', false); END $$;
            CREATE EVENT TRIGGER f ON ddl_command_end EXECUTE FUNCTION public.f()
        """)
        with sharing("trial"):
            _used(tiers.core, "vacuum", _rebuilds)
            with closing(tiers.core.connect("usage")) as conn:
                assert conn.execute("SELECT current_user = session_user").fetchone() == (True,)


def test_a_session_that_was_ended_is_dialled_again_and_a_statement_that_was_sent_is_not(tiers: Tiers) -> None:
    with FaultProxy(int(tiers.core.parameters["port"])) as proxy, closing(tiers.core.connect("oracle")) as oracle:
        oracle.execute("CREATE TABLE noted (n int)")
        core = proxy.link(tiers.core)
        with sharing("trial"):
            pid = _used(core, "usage", _reads)
            oracle.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
            assert _used(core, "usage", _writes) != pid
            proxy.hold("to_client")
            cut = Thread(target=lambda: (eventually(lambda: oracle.execute("SELECT FROM noted").rowcount > 0), proxy.cut_now()))
            cut.start()
            with pytest.raises(NotNow), translated("core"), closing(core.connect("usage")) as conn:
                conn.execute("INSERT INTO noted VALUES (1)")
            cut.join()
            proxy.heal()
            assert oracle.execute("SELECT count(*) FROM noted").fetchone() == (1,)
            _used(core, "usage", _reads)


def test_one_that_nobody_wants_is_given_up_and_an_old_one_is_dialled_anew(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending, "SPARE_SECONDS", 0.1)
    with closing(tiers.core.connect("oracle")) as oracle, sharing("trial"):
        first = _used(tiers.core, "usage")
        with closing(tiers.core.connect("usage")) as busy:
            time.sleep(0.3)
            assert busy.execute("SELECT 1").fetchone() == (1,), "it was in use"
        assert eventually(lambda: oracle.execute(NAMED).fetchone() == (0,)), "it keeps a slot of the pooler's for nothing"
        monkeypatch.setattr(lending, "SPARE_SECONDS", 60)
        second = _used(tiers.core, "usage")
        assert second != first
        monkeypatch.setattr(lending, "SPARE_AGE_SECONDS", 0)
        assert _used(tiers.core, "usage") != second, "what a role is set to since would not hold for it"


def test_one_that_is_kept_for_longer_is_asked_first_whether_it_is_there(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    lender = lending.Lender("trial", spare_seconds=60)
    with FaultProxy(int(tiers.core.parameters["port"])) as proxy, lent_by(lender):
        core = proxy.link(tiers.core)
        first = _used(core, "usage", _reads)
        monkeypatch.setattr(lending, "SPARE_SECONDS", 0)
        assert _used(core, "usage", _writes) == first
        monkeypatch.setattr(lending, "ANSWER_SECONDS", 0.2)
        monkeypatch.setattr(
            lending.Lent, "connect", lambda *of, **more: (proxy.heal(), Session.connect.__func__(lending.Lent, *of, **more))[1]
        )
        proxy.hold("to_client")
        second = _used(core, "usage", _reads)
        assert second != first, "its link had broken unheard"
        assert _used(core, "usage", _reads) == second
    lender.close()
    with closing(tiers.core.connect("oracle")) as oracle:
        assert eventually(lambda: oracle.execute(NAMED).fetchone() == (0,))


def test_what_comes_over_shared_sessions_counts_once(tiers: Tiers) -> None:
    tiers.core.received.take()
    with sharing("trial"):
        _used(tiers.core, "usage", lambda conn: conn.execute("SELECT repeat('x', 100000)").fetchone())
        once = tiers.core.received.take()
        assert 100_000 < once < 130_000, "it is counted as soon as its user is done"
        for _ in range(3):
            _used(tiers.core, "usage")
    assert tiers.core.received.take() < 10_000


def test_threads_without_the_runs_context_have_sessions_of_their_own(tiers: Tiers) -> None:
    pids = list[int]()
    with sharing("trial"):
        first = _used(tiers.core, "mover")
        worker = Thread(target=lambda: pids.append(_used(tiers.core, "mover")))
        worker.start()
        worker.join()
    assert pids and pids[0] != first


def test_a_broken_pool_raises_as_a_first_dialling_does(tiers: Tiers) -> None:
    with FaultProxy(int(tiers.core.parameters["port"])) as proxy, sharing("trial"):
        core = proxy.link(tiers.core)
        _used(core, "usage")
        proxy.refuse()
        with pytest.raises(NotNow):
            core.connect("usage")
        proxy.heal()
        assert _used(core, "usage", _reads)
