"""A server of its own that counts statements, and that may be stopped."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tierkeeper.demo.server import EmbeddedPostgres


@pytest.fixture(scope="module")
def counting(server_folder: Path) -> Iterator[EmbeddedPostgres]:
    """With pg_stat_statements loaded; a test that stops it starts it again."""
    settings = {"shared_preload_libraries": "pg_stat_statements"}
    with EmbeddedPostgres.start(server_folder / "counting", durable=False, settings=settings) as server:
        yield server
