"""Puts restored rows into a table that is there, by their key: all of them, or nothing.

Nothing in the table is touched before the rows lie staged beside it, authenticated to the last byte, read back and compared.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any, Final

from psycopg import errors, sql

from tierkeeper.archive.restore import Selection, fill, to_table
from tierkeeper.archive.target import Fit, Target, fit, look
from tierkeeper.kernel.errors import Failed, NotNow, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.policy import OnConflict
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres import shapes
from tierkeeper.postgres.link import Link, take_own_path, transaction, translate, translated
from tierkeeper.postgres.session import Cursor
from tierkeeper.postgres.statements import load

_SQL: Final = load("tierkeeper.archive", "merging.sql")
_STAGED: Final = TableName("pg_temp", "tierkeeper_restored")
_PUT: Final = TableName("pg_temp", "tierkeeper_put")
_ROUNDS: Final = 3  # rows that come or go beside us need one more; what a third leaves, something there keeps out
_UNCHANGED: Final = "Nothing was changed there"


@dataclass(frozen=True)
class Merged:
    """What became of the rows: `skipped` ones lay there with their key already, `replaced` ones were written over."""

    inserted: int
    skipped: int = 0
    replaced: int = 0
    notes: Sequence[str] = ()

    @property
    def rows(self) -> int:
        return self.inserted + self.skipped + self.replaced


def into(
    selection: Selection, link: Link, name: TableName, on_conflict: OnConflict | None, managed: Collection[TableName]
) -> Merged:
    """Puts the selection's rows into a new table, or into one that is there where `on_conflict` lets it.

    I2: a table of `managed` takes none, whether it is there or not.
    """
    place = f"table {name} ({link.label})"
    refuse_managed([name], managed, name, place)
    if on_conflict is not None:
        with translated(place), closing(link.connect("restore")) as conn:
            there = shapes.exists(conn, name)
        if there:
            return merge(selection, link, name, on_conflict, managed)
    return Merged(to_table(selection, link, name))


def merge(
    selection: Selection, link: Link, name: TableName, on_conflict: OnConflict, managed: Collection[TableName] = ()
) -> Merged:
    """Puts the selection's rows into the table `name`, which is there, in one transaction.

    I10: whatever the table cannot take, and with `error` a single key that it has, refuses all; until every row was
    authenticated and compared nothing in it is touched. I4: a row that somebody writes meanwhile is waited for, and then stays
    (`skip`), is overwritten as a whole (`replace`) or refuses all (`error`). I2: a table that is one of `managed`, a part of
    it or above it takes nothing: its rows count already where they are.
    """
    place = f"table {name} ({link.label})"
    contents = selection.contents
    with translated(place), closing(link.connect("restore")) as conn, transaction(conn) as cur:
        target = look(cur, name, contents.shape.key)
        refuse_managed(target.relatives, managed, name, place)
        how = fit(target, contents, on_conflict, place)
        rows = fill(cur, selection, _STAGED, place, how.staged)
        _index(cur, how, selection)
        reach(Point.RESTORE_STAGED)
        cur.execute(sql.SQL("LOCK TABLE {} IN ROW EXCLUSIVE MODE").format(_named(name)))
        if look(cur, name, contents.shape.key) != target:
            raise NotNow(place, "it was altered meanwhile", "Run the same command again")
        take_own_path(cur)
        with _told(place):
            merged = _Merge(cur, target, how, place).run(on_conflict, rows)
        reach(Point.RESTORE_BEFORE_COMMIT)
    return merged


def refuse_managed(relatives: Collection[TableName], managed: Collection[TableName], name: TableName, place: str) -> None:
    """Raises UsageError where rows of a managed table would come to be in two tiers."""
    found = next((t for t in sorted(relatives) if t in managed), None)
    if found is None:
        return
    which = "it" if found == name else f"it holds rows of {found}, and that"
    cause = f"{which} is a table that tierkeeper moves: rows restored into it would count twice, here and in the archive"
    raise UsageError(place, cause, f"Bring them back with `tierkeeper archive thaw {found}`, or restore into another table")


def _named(name: TableName) -> sql.Identifier:
    return sql.Identifier(name.schema, name.name)


def _list(names: Sequence[str]) -> sql.Composed:
    return sql.SQL(", ").join(map(sql.Identifier, names))


def _index(cur: Cursor, how: Fit, selection: Selection) -> None:
    """By the key, which no two of the rows may share."""
    try:
        cur.execute(sql.SQL("CREATE UNIQUE INDEX ON {} ({})").format(_named(_STAGED), _list(how.key)))
    except errors.UniqueViolation as error:
        cause = f"two of its segments have a row with the same key ({error.diag.message_detail or 'which is long'})"
        place = f"table {selection.segments[-1].table}"
        raise UsageError(place, cause, "Restore them one by one with --segment") from error
    cur.execute(sql.SQL("ANALYZE {}").format(_named(_STAGED)))


@contextmanager
def _told(place: str) -> Iterator[None]:
    """What constraints and triggers of the table say to its new rows."""
    try:
        yield
    except (errors.IntegrityError, errors.DataError, errors.RaiseException) as error:
        known = translate(error, place)
        remedy = f"{_UNCHANGED}: change what refuses it, or restore into a table that does not exist"
        if isinstance(error, errors.ForeignKeyViolation):
            remedy = f"{_UNCHANGED}: restore the rows that these refer to first"
        raise Failed(place, known.cause, remedy) from error


class _Merge:
    """The staged rows on their way into the table. I4: what was put there is remembered by its key, and is ours until the
    commit; what was not is there, or goes another round.
    """

    def __init__(self, cur: Cursor, target: Target, how: Fit, place: str) -> None:
        self._cur = cur
        self._target = target
        self._how = how
        self._place = place
        self._names = {"table": _named(target.name), "staged": _named(_STAGED), "put": _named(_PUT), "key": _list(how.key)}

    def run(self, on_conflict: OnConflict, rows: int) -> Merged:
        self._execute("put_table")
        if on_conflict == "error":
            self._refuse_keys(rows)
        for _ in range(_ROUNDS):
            self._insert()
            if on_conflict == "replace":
                self._replace()
            left, lacking = self._row("left", same=self._same("t", "s"))
            if lacking == 0 and (left == 0 or on_conflict != "replace"):
                break
        else:
            cause = f"{lacking or left} rows stayed out each time: a trigger keeps them, or somebody changes them all the while"
            raise Failed(self._place, cause, f"{_UNCHANGED}: see what its triggers do, then run again")
        if on_conflict == "error" and left:
            self._refuse_keys(rows)
            raise NotNow(self._place, f"{left} rows with keys of these came and went", "Run the same command again")
        self._cur.execute("SET CONSTRAINTS ALL IMMEDIATE")
        inserted, replaced = self._row("counted")
        self._compare(inserted + replaced)
        return Merged(inserted, left, replaced, self._notes())

    def _refuse_keys(self, rows: int) -> None:
        """Raises UsageError where the table has one of the keys."""
        shown = sql.SQL(", ").join(sql.SQL("s.{}").format(sql.Identifier(k)) for k in self._how.key)
        there, first = self._row("there", shown=shown, same=self._same("t", "s"))
        if there:
            names = ", ".join(self._how.key)
            cause = f"{there} of the {rows} keys are there already; the first is {names} = {first}"
            raise UsageError(self._place, cause, f"{_UNCHANGED}: leave such rows with --on-conflict skip, or replace them")

    def _insert(self) -> None:
        self._execute(
            "insert",
            columns=_list(self._how.inserted),
            values=sql.SQL(", ").join(map(self._archived, self._how.inserted)),
            same=self._same("t", "s"),
        )

    def _replace(self) -> None:
        keys = sql.SQL(", ").join(sql.SQL("t.{}").format(sql.Identifier(k)) for k in self._how.key)
        changes = [sql.SQL("{} = {}").format(sql.Identifier(n), self._archived(n)) for n in self._how.overwritten]
        self._execute(
            "replace" if changes else "take",
            changes=sql.SQL(", ").join(changes),
            same=self._same("t", "s"),
            done=self._same("p", "s"),
            keys=keys,
        )

    def _compare(self, put: int) -> None:
        """I3's way: what was put there is what was archived, bit for bit, whatever triggers and defaults there do."""
        names = [c.name for c in self._how.staged]
        each = [
            sql.SQL("coalesce(bool_and(ROW({})::record OPERATOR(pg_catalog.*=) ROW(t.{})::record), true)").format(
                self._archived(n), sql.Identifier(n)
            )
            for n in names
        ]
        found, *same = self._row(
            "equal", each=sql.SQL(", ").join(each), staged_same=self._same("p", "s"), table_same=self._same("t", "p", cast=False)
        )
        other = next((n for n, equal in zip(names, same, strict=True) if not equal), None)
        if found != put or other is not None:
            what = f"the column {other!r} of its rows" if other is not None else "the key of its rows"
            cause = f"{what} is not what was archived: a trigger or a generated column there makes it another"
            raise Failed(
                self._place, cause, f"{_UNCHANGED}: drop or disable it there, or restore into a table that does not exist"
            )

    def _notes(self) -> list[str]:
        """Sequences that may give values out which these rows have."""
        notes = []
        for name in self._how.inserted:
            sequence = self._target.places[name].sequence
            if sequence is not None:
                greatest, last = self._row("sequence", column=sql.Identifier(name), sequence=sql.Literal(sequence))
                if greatest is not None and greatest > (last or 0):
                    notes.append(f"the sequence of its column {name} stands below {greatest}, which a row has now: set it on")
        return notes

    def _archived(self, name: str) -> sql.Composed:
        """The archived value as the table's type."""
        return sql.SQL("s.{}::{}").format(sql.Identifier(name), sql.SQL(self._target.places[name].column.type))

    def _same(self, one: str, other: str, *, cast: bool = True) -> sql.Composed:
        """Whether two rows have the same key; the archived one's is cast."""
        terms = []
        for name in self._how.key:
            right = self._archived(name) if cast else sql.SQL("{}.{}").format(sql.SQL(other), sql.Identifier(name))
            equal = sql.SQL(self._target.equal[name])
            terms.append(sql.SQL("{}.{} {} {}").format(sql.SQL(one), sql.Identifier(name), equal, right))
        return sql.SQL(" AND ").join(terms)

    def _execute(self, statement: str, **more: sql.Composable) -> None:
        self._cur.execute(_SQL[statement].format(**self._names, **more))

    def _row(self, statement: str, **more: sql.Composable) -> tuple[Any, ...]:
        self._execute(statement, **more)
        (row,) = self._cur.fetchall()
        return tuple(row)
