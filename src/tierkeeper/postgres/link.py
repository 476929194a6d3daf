"""The edge to Postgres: how a tier is reached, how a transaction begins, how a driver's error becomes ours.

Nothing here leaves state in a session: everything is set per transaction, so that it works through a transaction pooler
and never leaks to another client of one.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import quote, urlencode

import psycopg
from psycopg import conninfo, sql

from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.limits import CONNECT_SECONDS, LOCK_SECONDS, LOOK_LOCK_SECONDS
from tierkeeper.kernel.ports import Gate
from tierkeeper.postgres import met, urls
from tierkeeper.postgres.keeping import dial
from tierkeeper.postgres.lending import is_full
from tierkeeper.postgres.received import Received
from tierkeeper.postgres.session import Cursor, Session

Connection = Session
Isolation = Literal["read committed", "repeatable read"]

PINNED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "TimeZone": "UTC",
        "DateStyle": "ISO, YMD",
        "IntervalStyle": "postgres",
        "extra_float_digits": "3",
        "bytea_output": "hex",
        "lc_monetary": "C",
        "xmloption": "content",
        "client_encoding": "UTF8",
    }
)
"""Settings under which a value's text form is the same on every server and reads back bit for bit."""

UNDISTURBED: Final[Mapping[str, str]] = MappingProxyType(
    {"row_security": "off", "quote_all_identifiers": "off", "statement_timeout": "0", "jit": "off"}
)
"""What a role or database may have set otherwise, and a transaction of ours has so: it sees every row, names are quoted where
they must be, no statement is cut short, and none is compiled, which takes a question of the catalog a hundred times as long. A
reader, whose time is bounded, sets its bound itself.
"""

_UNBOUNDED: Final[Mapping[str, str]] = MappingProxyType({"idle_in_transaction_session_timeout": "0"})
"""What would end a transaction of ours in its middle: one waits for another tier, or reads what takes long."""
_LIVENESS: Final[Mapping[str, str]] = MappingProxyType(
    {"tcp_keepalives_idle": "20", "tcp_keepalives_interval": "5", "tcp_keepalives_count": "4"}
)
"""How soon a server ends a transaction of ours whose machine it cannot reach any more: in 40 seconds, as a dead worker's work is
taken over. Its own time is two hours as a rule, in which nobody else gets what the transaction has locked.
"""
_HEARD: Final = "tcp_user_timeout"
_HEARD_WRITING: Final = "40s"
_HEARD_READING: Final = "5min"
"""The same where something is under way to that machine: the system then asks nothing, and sends it again for 15 minutes. It
also ends a session whose machine is there and takes nothing for so long, as one may that reads rows for a tier which stands
still: what only reads holds no lock that the application waits for, and gets more time.
"""
_TRANSACTION_TIMEOUT: Final = "transaction_timeout"
_TRANSACTION_TIMEOUT_SINCE: Final = 170000  # to an older server it is no setting at all

OWN_PATH: Final = sql.SQL("SET LOCAL search_path TO DEFAULT")
"""From here on names mean what they mean in the role's own sessions: for what is the user's, triggers and conditions."""
PINNED_PATH: Final = sql.SQL("SET LOCAL search_path = pg_catalog")
"""From here on text forms of types and objects have their schema, and nothing of ours can be mistaken for something else."""

MOVER_LOCK: Final = (0x74696572, 0x6B656570)
"""The advisory lock that a mover's transactions share, so that others can tell them in pg_locks.

A connection's application_name would not do: a transaction pooler hands it on to the next client that gives none.
"""

_MOVER: Final = "tierkeeper mover"
_SYSTEM_CAS = "/etc/ssl/certs/ca-certificates.crt"


@dataclass(frozen=True)
class Link:
    """A tier's address, or one that an option gave, whose name `tier` is then (`--on`).

    I6: the peer is verified, unless it is loopback or `insecure` says otherwise. `pin` is the file with the one authority that
    its user confirmed (`pins`), which only `sslrootcert` beats. `received` counts what came over its connections.
    """

    tier: str
    url: str = field(repr=False)
    sslrootcert: str | None = None
    insecure: bool = False
    pin: str | None = None
    received: Received = field(default_factory=Received, repr=False, compare=False)
    gate: Gate | None = field(default=None, repr=False, compare=False)

    @cached_property
    def parameters(self) -> dict[str, str]:
        """libpq's parameters, with TLS verification made explicit. Raises UsageError for a URL that is none."""
        place = self.place
        given = urls.read(self.url, place)
        given.setdefault("connect_timeout", str(CONNECT_SECONDS))
        mode, ca = given.get("sslmode"), self.sslrootcert or given.get("sslrootcert")
        if self.pin is not None and not ca:
            given["sslrootcert"], given["sslmode"] = self.pin, "verify-full"
        elif urls.is_loopback(given.get("host", given.get("hostaddr", ""))) or self.insecure:
            if ca:
                given["sslrootcert"], given["sslmode"] = ca, mode or "verify-full"
        elif mode in ("disable", "allow", "prefer"):
            raise UsageError(
                place,
                f"sslmode={mode} would send rows over a link that anyone can read",
                "Take sslmode out of the URL, or set insecure = true",
            )
        else:
            given["sslmode"] = "verify-full"
            given["sslrootcert"] = ca or (_SYSTEM_CAS if Path(_SYSTEM_CAS).exists() else "system")
        return given

    @property
    def names_authority(self) -> bool:
        """Whether the user has said whom to believe: a file, or libpq's word for the system's."""
        return bool(self.sslrootcert or conninfo.conninfo_to_dict(self.url).get("sslrootcert"))

    @property
    def host(self) -> str:
        """The host's name, or several with commas; an address where there is none."""
        return (self.parameters.get("host") or self.parameters.get("hostaddr", "")).lower()

    @property
    def place(self) -> str:
        """Where the address stands, for errors."""
        return self.tier if self.tier.startswith("-") else f"tiers.{self.tier}"

    @property
    def label(self) -> str:
        """The tier's name; of another server its address."""
        return self.shown if self.tier.startswith("-") else self.tier

    @property
    def uri(self) -> str:
        """The whole address as one libpq URI, for drivers that take nothing else."""
        p = dict(self.parameters)
        return "postgresql:///?" + urlencode(p, quote_via=quote)  # libpq takes a plus for a plus, not for a space

    @property
    def shown(self) -> str:
        """Host, port and database, without user and password."""
        p = self.parameters
        return f"{p.get('host', 'localhost')}:{p.get('port', '5432')}/{p.get('dbname', '')}"

    def address(self, purpose: str) -> str:
        """What `connect` dials, with the password. Raises UsageError for a URL that is none."""
        return _conninfo(self, purpose)

    def connect(self, purpose: str) -> Connection:
        """An autocommit connection. Raises NotNow where the server is away, UsageError where it refuses us.

        Where nobody vouches for the server that is a `trust.Untrusted`, which says what it showed.
        """
        place = f"{self.place} ({self.shown})"
        try:
            with nullcontext() if self.gate is None else self.gate(place), translated(place):
                conn = dial(_conninfo(self, purpose))
        except UnverifiedError as error:
            from tierkeeper.postgres.trust import explained

            raise explained(self, error) from error
        conn.received, conn.label = self.received, self.label
        return conn


def named(purpose: str) -> str:
    """What a connection is named at its server, and what it may do here goes by."""
    return f"tierkeeper {purpose}"


@cache
def _conninfo(link: Link, purpose: str) -> str:
    return conninfo.make_conninfo("", **{**link.parameters, "application_name": named(purpose), "client_encoding": "UTF8"})


@cache
def _begin(isolation: Isolation, read_only: bool, lock_seconds: float, may_end: bool, holds: bool) -> tuple[sql.SQL, ...]:
    """BEGIN with the settings of every transaction of ours, put together once: there may be thousands in a second.

    `may_end`: the server knows a bound for whole transactions. `holds`: others would wait for its end.
    """
    local = {**PINNED, **UNDISTURBED, **_UNBOUNDED, "lock_timeout": f"{lock_seconds}s", "search_path": "pg_catalog"}
    if not read_only:
        local["synchronous_commit"] = "on"
    if may_end:
        local[_TRANSACTION_TIMEOUT] = "0"
    if holds:
        local |= {**_LIVENESS, _HEARD: _HEARD_READING if read_only else _HEARD_WRITING}
    begin = sql.SQL("BEGIN ISOLATION LEVEL {} {}").format(
        sql.SQL("REPEATABLE READ" if isolation == "repeatable read" else "READ COMMITTED"),
        sql.SQL("READ ONLY" if read_only else "READ WRITE"),
    )
    settings = [sql.SQL("SET LOCAL {} = {}").format(sql.Identifier(k), sql.Literal(v)) for k, v in local.items()]
    return tuple(sql.SQL(one.as_string(None)) for one in (begin, *settings))


@contextmanager
def transaction(
    conn: Connection,
    *,
    isolation: Isolation = "read committed",
    read_only: bool = False,
    opening: Sequence[sql.Composable] = (),
    ahead: Sequence[sql.Composable] = (),
    lock_seconds: float | None = None,
    own_path: bool = False,
) -> Iterator[Cursor]:
    """One transaction under the pinned settings. An explicit READ WRITE also works where a full tier's default is read-only.

    A write is durable when this returns: `synchronous_commit` is on, whatever the server's default. A read-only one may be
    ended early by its body with COMMIT. One on a connection made for the purpose `mover` shares MOVER_LOCK. `opening` comes
    before all else: with a LOCK TABLE before anything takes a snapshot, what the catalog says of the table in it stays so. No
    lock is waited for longer than `lock_seconds` (LOCK_SECONDS; LOOK_LOCK_SECONDS within `looking`). The statements `ahead` are a
    transaction of their own, which is written and durable before this one begins; they go along with its first statement. With
    `own_path` names are looked up where the role's own sessions look them up: a trigger, a check or a condition of the user's
    runs in it.
    """
    if conn.only_reads and (ahead or not read_only):
        raise Failed("transaction", "a plan or a report was about to write something", "Report this: it is a fault here")
    waits = (LOOK_LOCK_SECONDS if conn.gives_way else LOCK_SECONDS) if lock_seconds is None else lock_seconds
    shared = [sql.SQL("SELECT pg_advisory_xact_lock_shared({}, {})").format(*MOVER_LOCK)] if conn.name.startswith(_MOVER) else []
    conn.wrote |= not read_only or bool(ahead)
    conn.ran_users_code |= own_path
    may_end = conn.info.server_version >= _TRANSACTION_TIMEOUT_SINCE
    first: list[sql.Composable] = [
        *_begin(isolation, read_only, waits, may_end, holds=bool(shared) or not read_only),
        *opening,
        *shared,
        *([OWN_PATH] if own_path else []),
    ]
    if ahead:
        first = [
            *_begin("read committed", read_only=False, lock_seconds=waits, may_end=may_end, holds=True),
            *shared,
            *ahead,
            sql.SQL("COMMIT"),
            *first,
        ]
    with Cursor(conn) as cur:
        conn.open_with(first)
        try:
            yield cur
        except BaseException as error:
            met.note(error, conn.label)
            if not conn.take_opening() and not conn.closed:
                with suppress(psycopg.Error):  # it may be gone: then the server has rolled back, and the first error is told
                    cur.execute("ROLLBACK")
            raise
        if not conn.in_transaction:
            return  # its reader has ended it early
        if conn.take_opening():
            return  # nothing was asked
        if read_only:
            conn.end_reading()
            return
        # COMMIT after a statement that failed and was passed over says ROLLBACK and raises nothing.
        if cur.execute("COMMIT").statusmessage != "COMMIT":
            raise Failed(
                "transaction", "it was rolled back where it should have been committed", "Report this: it is a fault here"
            )


def take_own_path(cur: Cursor) -> None:
    """OWN_PATH in the middle of a transaction."""
    cur.connection.ran_users_code = True
    cur.execute(OWN_PATH)


_LIFT: Final = "There: ALTER ROLE … SET {} = 0 for the role that the URL names, then run again"
_BY_STATE: Final[Mapping[str, tuple[type[TierkeeperError], str]]] = MappingProxyType(
    {
        "28": (UsageError, "Correct the user or the password in the URL"),
        "3D": (UsageError, "Correct the database's name in the URL"),
        "25006": (NotNow, "The server takes no writes: make room or end its read-only mode, then run again"),
        "25P03": (NotNow, _LIFT.format("idle_in_transaction_session_timeout")),
        "25P04": (NotNow, _LIFT.format(_TRANSACTION_TIMEOUT)),
        "57P05": (NotNow, _LIFT.format("idle_session_timeout")),
        "42501": (UsageError, "Grant the role what it lacks, or connect as the tables' owner"),
        "27": (Failed, "A trigger there changes the row that is to go: change it; the rows stay where they are"),
        "0A": (UsageError, "The Postgres there cannot do it: use one whose version and build can"),
        "42704": (UsageError, "Make it there first, or use a Postgres that has it"),
        "22": (
            Failed,
            "Change the value or the column that refuses it, or leave those rows out with --where; they stay where they are",
        ),
        "23": (Failed, "Drop that constraint there, or leave those rows out with --where; they stay where they are"),
        "P0": (Failed, "A trigger there refuses it: change it, or leave those rows out with --where; they stay where they are"),
        "53": (NotNow, "Give the server room (disk, memory or connections), then run again"),
        "55006": (NotNow, "Something is at work there: run again when it is through"),
        "54": (Failed, "A value is larger than Postgres can hand over: leave its row out with --where; it stays where it is"),
        "55P03": (NotNow, "Something holds a lock: run again when it is through"),
        "57": (NotNow, "Run again when the server is back"),
        "08": (NotNow, "Run again when the server can be reached"),
        "40": (NotNow, "Run again"),
    }
)


_CREDENTIALS: Final = "Correct the user or the password in the URL"
_AUTHORITY: Final = (
    "Name the server's CA in sslrootcert; where it was verified before, have its certificate renewed: it may have expired"
)
_REFUSED: Final[Sequence[tuple[str, str]]] = (
    (r"[Tt]enant or user not found", "In the URL of Supabase's pooler the user is postgres.REF; copy it whole from Connect"),
    (r"password authentication failed|no password supplied|role .* does not exist", _CREDENTIALS),
    (r"database .* does not exist", "Correct the database's name in the URL"),
    # A peer that went away, or that is about to, is told by its TLS library too: that is no fault of the address.
    (r"certificate|no encryption|SSL error(?!: unexpected eof)|protocol version", _AUTHORITY),
    (r"does not support SSL|response to SSL negotiation", "Check host and port, or have the server speak TLS"),
)
"""What a server or the link to it says when the address is wrong: the gravest first, for one attempt may hide another."""

_ATTEMPT: Final = re.compile(r'^(?:- )?.*?connection to server at "[^"]*"(?: \([^)]*\))?, port \d+ failed: (?:FATAL: +)?')


class Full(NotNow):
    """The server lives, and has no connection left to give."""


class UnwelcomeError(UsageError):
    """The server lives, and does not know the user or its password."""


class UnverifiedError(UsageError):
    """Something answers, and TLS comes to no link that is verified: nothing was sent over it."""


_KINDS: Final[Mapping[str, type[UsageError]]] = MappingProxyType({_CREDENTIALS: UnwelcomeError, _AUTHORITY: UnverifiedError})


def _not_connected(text: str, place: str) -> TierkeeperError:
    """No connection: libpq says a line for each attempt (with and without TLS, each address of a host), hints indented."""
    lines = [_ATTEMPT.sub("", line).strip() for line in text.splitlines() if not line.startswith((" ", "\t"))]
    # Before all else: the attempt without TLS that libpq makes after it may be refused for having none.
    if (full := next((line for line in lines if is_full(line)), None)) is not None:
        return Full(place, f"it gives no further connection ({full})", "Close some there or raise the limit, then run again")
    for pattern, remedy in _REFUSED:
        for line in lines:
            if re.search(pattern, line):
                return _KINDS.get(remedy, UsageError)(place, line, remedy)
    remedy = "Check that it runs and that host and port are right, then run again"
    if ".supabase.co:" in place:
        remedy += "; the direct host needs IPv6: in Supabase open Connect and copy the URL of the 'Session pooler'"
    return NotNow(place, f"the server does not answer ({lines[0]})", remedy)


_CONTEXTS: Final = (
    (re.compile(r"^PL/pgSQL function (.+) line \d+ at ", re.MULTILINE), "in the function {}"),
    (re.compile(r"^COPY .+, line \d+, column (.+?)(?:: .*)?$", re.MULTILINE), "column {}"),
)
"""Where in Postgres's context an error arose; the value that it quotes behind a column stays out."""


def translate(error: psycopg.Error, place: str) -> TierkeeperError:
    """`error` in our words. The driver's text may quote a row but never a password; only its first line is kept."""
    state = error.sqlstate or ""
    text = error.diag.message_primary or str(error) or type(error).__name__
    text = re.sub(r"postgres(?:ql)?://\S+", "postgresql://…", text.strip())
    if not state and (isinstance(error, psycopg.OperationalError) or type(error) is psycopg.DatabaseError):
        return _not_connected(text, place)  # no server has said anything: the driver tells of the link
    where = next((said.format(found[1]) for p, said in _CONTEXTS if (found := p.search(error.diag.context or ""))), "")
    cause = text.splitlines()[0].strip() + (f" ({where})" if where else "")
    # A value that a server does not take says why under any state: what a name in it lacks, or that its type could not read it.
    others = {"42": _BY_STATE["42704"], "3F": _BY_STATE["42704"], "XX": _BY_STATE["22"]} if where.startswith("column ") else {}
    states = {**others, **_BY_STATE}
    kind, remedy = next(
        (states[k] for k in (state, state[:2]) if k in states), (Failed, f"Look up SQLSTATE {state} in Postgres's manual")
    )
    return kind(met.placed(error, place), cause, remedy)


@contextmanager
def translated(place: str) -> Iterator[None]:
    """Turns the driver's errors into ours, at `place`."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, place) from error
