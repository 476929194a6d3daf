"""What a command dials while it still loads."""

from collections import Counter
from typing import Any

import pytest
from psycopg.conninfo import conninfo_to_dict

from support import FLIGHTS_POLICY, Command, TiersFactory, tierkeeper_toml
from tierkeeper.cli import move
from tierkeeper.postgres.session import Session


def test_a_move_wants_each_connection_that_is_dialled_while_it_loads(
    make_tiers: TiersFactory, monkeypatch: pytest.MonkeyPatch, ask: Command
) -> None:
    """One that nobody takes would be a place less for others, for as long as the move lasts."""
    tiers = make_tiers(core="sample")
    for name, value in tiers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("TIERKEEPER_CONFIG", str(tierkeeper_toml(tiers, FLIGHTS_POLICY)))
    monkeypatch.chdir(tiers.home)
    assert ask("setup", "--apply")["applied"] is True
    dialled: Counter[tuple[str, str]] = Counter()
    connect = Session.connect.__func__  # type: ignore[attr-defined]

    def counted(cls: type[Session], conninfo: str = "", **kwargs: Any) -> Session:
        given = conninfo_to_dict(conninfo)
        dialled[str(given["dbname"]), str(given["application_name"])] += 1
        found: Session = connect(cls, conninfo, **kwargs)
        return found

    monkeypatch.setattr(Session, "connect", classmethod(counted))

    def count(before: str) -> dict[tuple[str, str], int]:
        dialled.clear()
        assert ask("move", "flights", "--from", "core", "--to", "main", "--before", before)["rows"] > 0
        return dict(dialled)

    early = count("2013-02-01")
    monkeypatch.setattr(move, "soon", lambda *_: [])
    assert early == count("2013-03-01")
