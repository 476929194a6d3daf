"""`python -m bench NAME [--json] [--rows N] [--runs N]`."""

import argparse
import json
import sys
from collections.abc import Callable

from bench import archive_write, move
from bench.common import Figures
from tierkeeper.kernel.errors import TierkeeperError

BENCHES: dict[str, Callable[[int, int], Figures]] = {"move": move.run, "archive-write": archive_write.run}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=BENCHES)
    parser.add_argument("--json", action="store_true", help="one JSON document")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=3, help="of each side, taken in turn; the median counts")
    given = parser.parse_args()
    if given.rows < 1 or given.runs < 1:
        parser.error("--rows and --runs must be at least 1")
    try:
        figures = BENCHES[given.name](given.rows, given.runs)
    except TierkeeperError as error:
        print(error, file=sys.stderr)
        return int(error.exit_code)
    if given.json:
        print(json.dumps(figures.document()))
    else:
        print(f"{given.name}: {figures.ours:,.0f} {figures.unit}, {figures.peer_name}: {figures.peer:,.0f}; "
              f"ratio {figures.ratio:.2f}, peak {figures.peak_mb:.0f} MB")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
