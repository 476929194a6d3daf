"""I7: an action has a record before it and after it, or it does not run."""

import time
from contextlib import closing
from typing import Any

import pytest

from tierkeeper.kernel.errors import Failed, TierkeeperError
from tierkeeper.postgres.keeping import sharing
from tierkeeper.postgres.link import Link
from tierkeeper.security import audit
from tierkeeper.security.audit import PostgresAudit

RECORDS = "SELECT kind, verb, subject, detail FROM tierkeeper.audit ORDER BY id"


def test_the_intent_is_durable_before_the_action_and_the_outcome_after(pair: Any) -> None:
    with PostgresAudit(pair.tiers.main).action("move", "public.events", {"to": "main"}) as note:
        assert pair.main.execute(RECORDS).fetchall() == [("intent", "move", "public.events", {"to": "main"})]
        note(rows=7)
    assert pair.main.execute(RECORDS).fetchall()[1:] == [("outcome", "move", "public.events", {"rows": 7})]


def test_a_failure_is_an_outcome_too(pair: Any) -> None:
    with pytest.raises(Failed), PostgresAudit(pair.tiers.main).action("move", "t", {}) as note:
        note(rows=1)
        raise Failed("t", "it differs", "Look")
    assert pair.main.execute(RECORDS).fetchall()[1:] == [("outcome", "move", "t", {"rows": 1, "failed": "it differs"})]


def test_without_a_record_nothing_runs(pair: Any) -> None:
    pair.main.execute("ALTER TABLE tierkeeper.audit RENAME TO elsewhere")
    ran = False
    with pytest.raises(TierkeeperError), PostgresAudit(pair.tiers.main).action("move", "t", {}):
        ran = True
    assert not ran


IDLE = "SELECT pid FROM pg_stat_activity WHERE application_name = 'tierkeeper audit'"


def test_a_short_action_dials_once(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    dialled: list[str] = []
    connect = Link.connect
    monkeypatch.setattr(Link, "connect", lambda link, purpose: (dialled.append(purpose), connect(link, purpose))[1])
    with PostgresAudit(pair.tiers.main).action("move", "t", {}):
        assert len(pair.main.execute(IDLE).fetchall()) == 1
    assert (dialled, len(pair.main.execute(RECORDS).fetchall())) == (["audit"], 2)


def test_a_long_action_holds_no_connection(pair: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "AUDIT_KEPT_SECONDS", 0.05)
    with PostgresAudit(pair.tiers.main).action("move", "t", {}):
        until = time.monotonic() + 20
        while pair.main.execute(IDLE).fetchall() and time.monotonic() < until:
            time.sleep(0.02)
        assert pair.main.execute(IDLE).fetchall() == []
    assert len(pair.main.execute(RECORDS).fetchall()) == 2


def test_in_a_run_an_action_holds_no_connection_of_its_own(pair: Any) -> None:
    with (
        sharing("trial"),
        PostgresAudit(pair.tiers.main).action("move", "t", {}),
        closing(pair.tiers.main.connect("usage")) as conn,
    ):
        named = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name = %s"
        assert conn.execute(named, ["tierkeeper trial"]).fetchone() == (1,)
    assert len(pair.main.execute(RECORDS).fetchall()) == 2


def test_an_outcome_is_written_where_the_intents_session_was_ended(pair: Any) -> None:
    with PostgresAudit(pair.tiers.main).action("move", "t", {}) as note:
        pair.main.execute(f"SELECT pg_terminate_backend(pid, 5000) FROM ({IDLE}) AS found")
        note(rows=1)
    assert pair.main.execute(RECORDS).fetchall()[1:] == [("outcome", "move", "t", {"rows": 1})]
