"""`python -m bench NAME [--json] [--rows N] [--runs N] ...`: `--help` has the rest, and says which benches take it."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path

from bench import archive_read, archive_write, many_segments, many_tables, move
from bench.balancing import figures as balancing
from bench.common import Figures, Options
from bench.peers import PEERS
from bench.tables import TABLES
from tierkeeper.kernel.errors import TierkeeperError

BENCHES: dict[str, Callable[[Options], Figures]] = {
    "move": move.run,
    "move-scale": move.scale,
    "archive-write": archive_write.run,
    "archive-size": archive_read.size,
    "restore": archive_read.restore,
    "one-day": archive_read.one_day,
    "many-tables": many_tables.run,
    "many-segments": many_segments.run,
    "balance-healthy": balancing.healthy,
    "balance-gray": balancing.gray,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3, help="of each side, taken in turn; the median counts")
    parser.add_argument("--delay", type=float, default=0, metavar="MS", help="move: on the link to Core, each way")
    parser.add_argument("--peer", choices=[*PEERS, move.ALL], default="pipe", help="move: what to compare with")
    parser.add_argument("--scale", type=_sizes, default=[10**5, 10**6, 10**7], metavar="N,N", help="move-scale: rows")
    parser.add_argument("--tables", type=int, default=1_000, help="many-tables: how many")
    parser.add_argument("--segments", type=int, default=100_000, help="many-segments: how many")
    parser.add_argument("--postgres", type=Path, metavar="DIR", help="the servers' programs, instead of the embedded ones")
    parser.add_argument("--table", choices=TABLES, default="flights", help="moves and archives: what the rows are")
    given = parser.parse_args()
    if min(given.rows, given.runs, given.tables, given.segments, *given.scale) < 1 or given.delay < 0:
        parser.error("numbers of rows, runs, tables and segments must be at least 1, and a delay cannot be negative")
    options = Options(
        rows=given.rows,
        runs=given.runs,
        delay_ms=given.delay,
        peer=given.peer,
        sizes=given.scale,
        tables=given.tables,
        segments=given.segments,
        postgres=given.postgres,
        table=given.table,
    )
    try:
        figures = BENCHES[given.name](options)
    except TierkeeperError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    if given.json:
        print(json.dumps(figures.document()))
        return 0
    print(f"{given.name}: {figures.ours:,.5g} {figures.unit}, {figures.peer_name}: {figures.peer:,.5g}; "
          f"ratio {figures.ratio:.2f}, peak {figures.peak_mb:.0f} MB")  # fmt: skip
    for name, more in figures.more.items():
        entries = more.items() if isinstance(more, dict) else enumerate(more) if isinstance(more, list) else [("", more)]
        print(*(f"  {name} {key}: {value}" for key, value in entries), sep="\n")
    return 0


def _sizes(text: str) -> list[int]:
    return [int(size) for size in text.replace("_", "").split(",")]


if __name__ == "__main__":
    sys.exit(main())
