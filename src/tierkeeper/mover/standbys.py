"""Which standbys of a destination may lack a copy: one of them may be the tier tomorrow. Pure but for its one question."""

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from psycopg import sql

from tierkeeper.postgres.statements import load

_SQL = load("tierkeeper.mover", "standbys.sql")
UNSEEN: Final = ", or that this role may not see (pg_monitor)"


class Standby(NamedTuple):
    """A row of `standbys`. `pid` is its walsender's, None while it is away; `slot` one that outlives its connection."""

    pid: int | None
    slot: str | None
    name: str
    behind: bool


class Standbys:
    """The standbys that a copy waits for, which was durable by `lsn`.

    I1, I3: one with a slot is waited for whenever it is away. One without is known only while it is connected: if it goes away
    before it has confirmed, whoever comes under its name later is taken for it, and has to confirm in its place.
    """

    def __init__(self, lsn: str) -> None:
        self._lsn = lsn
        self._seen: set[int] = set()
        self._owing: dict[int, str] = {}
        """The names of those without a slot that have not confirmed, by their walsenders."""

    def question(self) -> tuple[sql.SQL, dict[str, Any]]:
        """What `waits_for` needs the answer to."""
        return _SQL["standbys"], {"lsn": self._lsn}

    def waits_for(self, rows: Iterable[tuple[Any, ...]], tier: str) -> str | None:
        """None once each has confirmed the copy; else which one has not."""
        now = [Standby(*row) for row in rows]
        connected = {s.pid: s for s in now if s.pid is not None}
        self._learn(connected)
        behind = [s for s in now if s.behind]
        away = next((s for s in behind if s.pid is None), None)
        if away is not None:
            return (
                f"a standby of {tier} that is away and has not confirmed the copy, by its replication slot {away.slot!r} "
                f"(bring it back; if there is none any more, there: {_drop(away)})"
            )
        if behind:
            name = next((f" ({s.slot or s.name})" for s in behind if s.slot or s.name), "")
            return f"{len(behind)} standby of {tier}{name} that has not confirmed the copy{UNSEEN}"
        gone = [name for pid, name in self._owing.items() if pid not in connected]
        if gone:
            name = f" ({gone[0]})" if gone[0] else ""
            return (
                f"a standby of {tier}{name} that went away before it confirmed the copy "
                "(bring it back; with a replication slot it is waited for however long it is away)"
            )
        return None

    def _learn(self, connected: dict[int, Standby]) -> None:
        for pid, standby in connected.items():
            if standby.slot is not None:
                continue
            if pid not in self._seen:
                back = next((p for p, name in self._owing.items() if p not in connected and name == standby.name), None)
                self._owing.pop(-1 if back is None else back, None)
            if standby.behind:
                self._owing[pid] = standby.name
            else:
                self._owing.pop(pid, None)
        self._seen |= connected.keys()


def _drop(standby: Standby) -> str:
    return sql.SQL("SELECT pg_drop_replication_slot({})").format(sql.Literal(standby.slot)).as_string(None)
