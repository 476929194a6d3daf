"""Copies of certificates: what lies there from before is served only if it is what it is called."""

from dataclasses import replace
from pathlib import Path

from chains import sign
from tierkeeper.balance.client import pool_of
from tierkeeper.balance.envoy.certificates import Copies
from tierkeeper.balance.envoy.documents import Layout
from tierkeeper.balance.model import Certificate


def test_a_copy_that_lost_its_content_is_made_again(tmp_path: Path) -> None:
    made = sign("own", 30, authority=False)
    given = Certificate(str(tmp_path / "own.pem"), str(tmp_path / "own.key"))
    Path(given.chain).write_bytes(made.pem)
    Path(given.key).write_bytes(made.key_pem)
    pools = [replace(pool_of(["http://127.0.0.1:1"]), certificate=given)]
    copy = Copies(Layout(str(tmp_path / "state"))).of(pools)["client"]
    for path in (copy.chain, copy.key):
        Path(path).write_bytes(b"")
    again = Copies(Layout(str(tmp_path / "state"))).of(pools)["client"]
    assert again == copy
    assert Path(copy.chain).read_bytes() == Path(given.chain).read_bytes()
    assert Path(copy.key).read_bytes() == Path(given.key).read_bytes()
    assert Path(copy.key).stat().st_mode & 0o777 == 0o600
