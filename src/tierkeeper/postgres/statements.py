"""SQL of more than a line lives in `.sql` files, one named statement a section; this reads them."""

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast

from psycopg import sql


@cache
def load(package: str, file: str) -> dict[str, sql.SQL]:
    """The statements of `package`'s `sql/FILE`, by the names of their `-- name: NAME` headings."""
    text = files(package).joinpath("sql", file).read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)[ \t]*\n", text, flags=re.MULTILINE)
    # The files ship with the package, so their text is as literal as a string in the code.
    return {name: sql.SQL(cast("LiteralString", body.strip())) for name, body in zip(parts[1::2], parts[2::2], strict=True)}
