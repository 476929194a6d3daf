"""What to do next: pure decisions of the move protocol, each named in design section 4."""

from collections.abc import Iterable, Iterator, Sequence
from enum import Enum, auto

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.limits import BATCH_ROWS_MIN, PIECE_PAGES, ROWS_PER_PAGE, WIDE_BYTES
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import LedgerState
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover.model import Piece


class Verdict(Enum):
    """How an unsettled batch ends. The marker's word decides, never the ledger's and never the clock's (I1, I5)."""

    FINISH = auto()  # the source's delete is committed: the copy is the row
    UNDO = auto()  # the source kept its rows: the copy goes
    WITHDRAW = auto()  # nothing was begun at the source: what was not copied yet will not be
    RESUME = auto()  # copied and proven, nobody has decided: go on from the wait
    LOST = auto()  # copied, and the source knows nothing of it: a person decides


def verdict(ledger: LedgerState, marker: str | None) -> Verdict:
    """What to do with a batch that an earlier run left `open` or `copied`, given its marker (None: there is none).

    Only for `aborted` is UNDO safe at once. An `open` marker under an `open` ledger row must first be won by changing it to
    `aborted`: the caller does so and asks again. A missing one says nothing of the rows. A marker comes before the copy and is
    dropped long after it, so a source without one for a `copied` batch is another database, or has lost its memory: LOST.
    """
    if marker == "moved":
        return Verdict.FINISH
    if marker is None:
        return Verdict.LOST if ledger == "copied" else Verdict.WITHDRAW
    if marker == "open" and ledger == "copied":
        return Verdict.RESUME
    return Verdict.UNDO


def cut(pieces: Iterable[Piece], most_rows: int, most_bytes: int) -> Iterator[Piece]:
    """Neighbouring pieces of one heap joined into batches, none above either bound unless a single piece is."""
    held: Piece | None = None
    for piece in pieces:
        fits = held is not None and held.rows + piece.rows <= most_rows and held.bytes + piece.bytes <= most_bytes
        if held is not None and fits and held.part == piece.part:
            widest, size_bytes = max(held.widest, piece.widest), held.bytes + piece.bytes
            held = Piece(held.first, piece.upto, held.rows + piece.rows, size_bytes, piece.part, widest)
            continue
        if held is not None:
            yield held
        held = piece
    if held is not None:
        yield held


def even(pieces: Sequence[Piece], most_rows: int, workers: int) -> int:
    """How large to make batches, up to `most_rows`, so that each worker has as many: none works on alone at the end.

    A batch ends with a whole piece, so it may lack as many rows as the largest one has. One worker alone waits for nobody.
    """
    rows, largest = sum(p.rows for p in pieces), max((p.rows for p in pieces), default=0)
    least_rows = most_rows if workers == 1 else max(most_rows - largest, 1)
    batches = -(-rows // (least_rows * workers)) * workers
    return min(-(-rows // max(batches, 1)) + largest, most_rows)


def piece_pages(batch_rows: int) -> int:
    """How many pages to count as one: few enough that batches come out at about their size."""
    return min(max(batch_rows // ROWS_PER_PAGE // 16, 1), PIECE_PAGES)


def workers(wanted: int, batches: Sequence[Piece]) -> int:
    """How many of `wanted` workers to take for `batches`: each needs work for a while, and holds a row of its own in memory."""
    widest = max((b.widest for b in batches), default=0)
    further = WIDE_BYTES // (3 * widest) if widest else wanted
    return max(min(wanted, workers_of(len(batches)), 1 + further), 1)


def workers_of(batches: int) -> int:
    """How many workers have enough to do with so many batches."""
    return batches // 2


def smaller(rows: int) -> int | None:
    """The size to retry a batch with that changed under us; None when it cannot usefully shrink further."""
    return max(rows // 2, BATCH_ROWS_MIN) if rows > BATCH_ROWS_MIN else None


def check_hop(source: Tier, destination: Tier) -> None:
    """Raises UsageError unless rows can go from `source` to `destination`."""
    if (source, destination) not in (("core", "main"), ("main", "archive"), ("main", "core")):
        remedy = "Move one tier: --from core --to main, --from main --to archive, or back up with --from main --to core"
        if source == "archive":
            remedy = "Bring rows back with: tierkeeper archive thaw"
        raise UsageError(f"--from {source} --to {destination}", "rows do not move this way", remedy)


def check_chosen(source: Tier, destination: Tier, *, chosen: bool) -> None:
    """Raises UsageError where rows are to go up and nothing says which: a policy says what leaves a tier, not what comes back."""
    if (source, destination) == ("main", "core") and not chosen:
        cause = "nothing says which rows are to come back, and all of them together would fill core again"
        remedy = 'Name them: --where "…", --before or --older-than; all of them: --where true'
        raise UsageError("--from main --to core", cause, remedy)


def check_condition(where: str | None) -> None:
    """Raises UsageError unless `where` is one SQL condition, whole and with nothing behind it."""
    if where is None:
        return
    # A run without a condition, which most are, does not wait for the parser to load.
    import sqlglot
    from sqlglot.errors import SqlglotError

    try:
        statements = sqlglot.parse(f"SELECT 1 FROM t WHERE ({where}\n)", dialect="postgres")  # noqa: S608 - parsed, never sent
        sqlglot.condition(where, dialect="postgres")
    except SqlglotError:
        statements = []
    if len(statements) != 1 or statements[0] is None or not isinstance(statements[0].args.get("where"), sqlglot.exp.Where):
        raise UsageError("--where", f"{where!r} is not an SQL condition", "Write what follows WHERE, such as: carrier = 'UA'")
    inside = statements[0].args["where"].this
    if not isinstance(inside, sqlglot.exp.Paren | sqlglot.exp.Subquery):
        raise UsageError("--where", "its parentheses do not match", "Close every parenthesis that it opens")


def locks(tables: Sequence[TableName], source: Tier, destination: Tier) -> list[str]:
    """What others have to wait for while rows move: no lock is held longer than one batch takes."""
    names = ", ".join(map(str, tables))
    held = [f"{source}: ROW EXCLUSIVE on {names}, and the rows of one batch while that is deleted"]
    if destination != "archive":
        held.append(f"{destination}: ROW EXCLUSIVE on {names}, and the copied rows until their batch is forgotten")
    return held
