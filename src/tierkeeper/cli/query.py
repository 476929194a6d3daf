"""`tierkeeper query`: one question over all tiers, answered as a table, CSV, JSON or Parquet."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from tierkeeper.cli import output, values
from tierkeeper.cli.session import Session, command
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.results import QueryFile

if TYPE_CHECKING:
    import pyarrow as pa
    from rich.table import Table

Format = Literal["table", "csv", "json", "parquet"]


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "query")
    def query(
        session: Session,
        sql: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT.")],
        format_: Annotated[
            Format | None, typer.Option("--format", help="How the answer is written; a table if left out.")
        ] = None,
        file: Annotated[Path | None, typer.Option("--output", metavar="FILE", help="Write the answer to this new file.")] = None,
    ) -> None:
        """Ask one SQL question over all tiers.

        Each row is seen exactly once, also in the middle of a move.
        """
        chosen = _format(format_, file, as_json=session.as_json)
        with session.keeper() as keeper:
            answer = keeper.query(sql)
        if file is None:
            _print(answer, chosen)
            return
        _save(answer, chosen, file)
        written = QueryFile(output=str(file), rows=answer.num_rows, bytes=file.stat().st_size)
        session.show(written)


def _format(format_: Format | None, file: Path | None, *, as_json: bool) -> Format:
    """The format that was asked for. Raises UsageError for arguments that contradict each other."""
    if file is None:
        if as_json and format_ not in (None, "json"):
            raise UsageError(
                "--format", f"--json prints JSON, not {format_}", "Leave out --json, or write to a file with --output"
            )
        if format_ == "parquet" and sys.stdout.isatty():
            raise UsageError("--format parquet", "Parquet is no text for a terminal", "Name a file with --output FILE")
        return format_ or ("json" if as_json else "table")
    if file.exists():
        raise UsageError("--output", f"{str(file)!r} is there already", "Name a new file")
    if not file.parent.is_dir():
        raise UsageError("--output", f"there is no directory {str(file.parent)!r}", "Make it first, or name another file")
    by_ending: dict[str, Format] = {".csv": "csv", ".json": "json", ".parquet": "parquet"}
    chosen = format_ or by_ending.get(file.suffix, "table")
    if chosen == "table":
        raise UsageError("--output", "a table for a person is no file format", "Add --format csv, json or parquet")
    return chosen


def _print(answer: "pa.Table", chosen: Format) -> None:
    if chosen == "json":
        for piece in values.records(answer):
            sys.stdout.write(piece)
        output.write("\n")
    elif chosen == "csv":
        _write_csv(answer, sys.stdout.buffer)
    elif chosen == "parquet":
        _write_parquet(answer, sys.stdout.buffer)
    else:
        out = output.console()
        out.print(table(answer))
        from rich.text import Text

        out.print(Text(f"{answer.num_rows:,} row{'' if answer.num_rows == 1 else 's'}", "dim"))


def _save(answer: "pa.Table", chosen: Format, file: Path) -> None:
    """Writes a new file; a file that could not be finished is taken away again."""
    try:
        with file.open("xb") as stream:
            if chosen == "parquet":
                _write_parquet(answer, stream)
            elif chosen == "csv":
                _write_csv(answer, stream)
            else:
                stream.writelines(piece.encode() for piece in (*values.records(answer), "\n"))
    except BaseException as error:
        file.unlink(missing_ok=True)
        if not isinstance(error, OSError):
            raise
        cause = f"the file cannot be written ({error.strerror})"
        raise Failed("--output", cause, "Make room, or name another place") from None


def _write_parquet(answer: "pa.Table", stream: Any) -> None:
    import pyarrow.parquet as pq

    pq.write_table(answer, stream, compression="zstd")


def _write_csv(answer: "pa.Table", stream: Any) -> None:
    """CSV in which NULL is empty and an empty text is quoted; what CSV has no form for is written as text."""
    import pyarrow as pa
    from pyarrow import csv

    columns = [c if _fits_csv(c.type) else pa.chunked_array([pa.array(_texts(c), pa.string())]) for c in answer.columns]
    csv.write_csv(pa.Table.from_arrays(columns, names=answer.column_names), stream)
    stream.flush()


def _fits_csv(kind: "pa.DataType") -> bool:
    import pyarrow.types as t

    return bool(t.is_integer(kind) or t.is_floating(kind) or t.is_string(kind) or t.is_large_string(kind) or t.is_boolean(kind))


def _texts(column: "pa.ChunkedArray") -> list[str | None]:
    return [None if value is None else values.as_text(value) for value in values.plain(column)]


def table(answer: "pa.Table") -> "Table":
    """The answer for a person: numbers to the right, NULL set apart from an empty text."""
    import pyarrow.types as t
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, header_style="bold", pad_edge=False)
    for column, kind in zip(answer.column_names, answer.schema.types, strict=True):
        number = t.is_integer(kind) or t.is_floating(kind) or t.is_decimal(kind)
        shown.add_column(Text(values.visible(column)), justify="right" if number else "left", overflow="fold")
    texts = [_texts(column) for column in answer.columns]
    for row in zip(*texts, strict=True):
        shown.add_row(*(Text("NULL", "dim") if v is None else Text(values.visible(v)) for v in row))
    return shown
