"""The page in a browser that runs its script: it reads itself anew, and what it cannot read anew it calls old."""

import shutil
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pages import Seen
from tierkeeper.kernel.results import BoardProof, BoardResult
from tierkeeper.web import overview

CHROMIUM = shutil.which("chromium")
NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed: apt-get install chromium")


def page(lost: int) -> str:
    proof = BoardProof(rows=1000, lost=lost, doubled=0, counted_at=NOW, seconds=1, current=True)
    return overview.page(BoardResult(at=NOW, fresh_seconds=5, proof=proof))


@contextmanager
def serving(answer: Callable[[int], str | None]) -> Iterator[str]:
    """`answer(n)` is the n-th page, from 0 on; None: an error."""
    asked = iter(range(10_000))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            text = answer(next(asked)) if self.path == "/" else None
            body = (text or "").encode()
            self.send_response(503 if text is None else 200)
            for name, value in {
                **overview.HEADERS,
                "Content-Type": "text/html; charset=utf-8",
                "Content-Length": str(len(body)),
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()


def after(seconds: int, url: str) -> Seen:
    """What stands in the browser so long after it began to load the page; the browser's own clock is put forward."""
    assert CHROMIUM is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        ran = subprocess.run(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom",
             f"--virtual-time-budget={seconds * 1000}", url],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert "tierkeeper" in ran.stdout, ran.stderr
    return Seen(ran.stdout)


def test_what_is_found_lost_later_comes_up_by_itself() -> None:
    with serving(lambda n: page(lost=0 if n == 0 else 7)) as url:
        seen = after(12, url)
    assert "7 rows lost" in seen.text
    assert "0 rows lost" not in seen.text
    assert seen.title.startswith("\N{MULTIPLICATION X}")
    assert "No answer" not in seen.text


def test_a_page_that_is_not_answered_any_more_says_for_how_long() -> None:
    with serving(lambda n: page(lost=0) if n == 0 else None) as url:
        seen = after(60, url)
    assert "No answer from tierkeeper for" in seen.text
    assert "not connected" in seen.text
