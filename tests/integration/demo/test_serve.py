"""`demo --serve` as a user has it: a second terminal, a browser, and nothing left when it ends.

The oracle counts the user's own rows, and knows no more of the demo than by how many days its dates are shifted.
"""

import json
import signal
import socket
import time
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import httpx
import pytest

from cloud import FUNCTIONS, ROOT, serverless
from pages import Seen
from served_demo import Demo, ServedDemo
from support import Command, eventually, sampled
from tierkeeper.cli import pages
from tierkeeper.cli.app import run
from tierkeeper.config import ENVIRONMENT
from tierkeeper.demo import flights, folder
from tierkeeper.demo.runtime import workspace
from tierkeeper.kernel.results import BoardResult, ServedDemoResult

ARCHIVER, BALANCER, MANAGER, SETUP = FUNCTIONS
_DATA_ENDS = datetime(2014, 1, 1, tzinfo=UTC)
_SHIFTED = """
    CREATE TABLE original AS SELECT * REPLACE (
        strftime(strptime(time_hour, '%Y-%m-%dT%H:%M:%SZ') + to_days($days), '%Y-%m-%d %H:%M:%S') AS time_hour,
        date_part('year', make_date(year::int, month::int, day::int) + $days)::text AS year,
        date_part('month', make_date(year::int, month::int, day::int) + $days)::text AS month,
        date_part('day', make_date(year::int, month::int, day::int) + $days)::text AS day
    ) FROM read_csv($file, header = true, all_varchar = true, nullstr = 'NA')
"""
_UNLIKE = "SELECT count(*) FROM (SELECT * FROM {} EXCEPT ALL SELECT * FROM {})"
ENDS = [(signal.SIGKILL, 0.2)] + [
    (number, seconds)
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
    for seconds in (0, 3, 7, 12, 25)
]


@pytest.fixture
def second(served_demo: ServedDemo, monkeypatch: pytest.MonkeyPatch, ask: Command) -> Command:
    """A second terminal, without the second that a process of its own takes to begin."""
    for name in (*ENVIRONMENT, "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in served_demo.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(served_demo.demo.home)
    return ask


def lost_and_extra(served: ServedDemo, second: Command, days: int) -> tuple[int, int]:
    """All flights of all tiers beside the package's file, column by column as text, its dates shifted by DuckDB's calendar."""
    files = {name: served.demo.home / f"{name}.csv" for name in ("original", "core", "main", "archive")}
    files["original"].write_bytes(flights._contents("flights"))
    columns = ", ".join(
        f"to_char({name} AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS') AS time_hour" if name == "time_hour" else name
        for name in flights.COLUMNS["flights"]
    )
    for name in ("core", "main"):
        copied = f"COPY (SELECT {columns} FROM public.flights) TO STDOUT (FORMAT csv, HEADER)"
        with closing(served.links[name].connect("oracle")) as conn, conn.cursor() as cur, cur.copy(copied) as copy:
            files[name].write_bytes(b"".join(copy))
    files["archive"].unlink(missing_ok=True)
    second("archive", "restore", "flights", "--to", str(files["archive"]))
    with duckdb.connect() as db:
        db.execute(_SHIFTED, {"days": days, "file": str(files["original"])})
        tiers = ", ".join(f"'{files[name]}'" for name in ("core", "main", "archive"))
        db.execute(
            "CREATE TABLE found AS SELECT * REPLACE (left(time_hour, 19) AS time_hour)"
            f" FROM read_csv([{tiers}], header = true, all_varchar = true, union_by_name = true)"
        )
        counts = [db.execute(_UNLIKE.format(*pair)).fetchone() for pair in (("original", "found"), ("found", "original"))]
    for file in files.values():
        file.unlink()
    lost, extra = (int(count[0]) if count else -1 for count in counts)
    return lost, extra


def one_variable_is_enough_for_a_second_terminal(served_demo: ServedDemo, second: Command) -> None:
    told = ServedDemoResult.model_validate(served_demo.told)
    assert told.environment == {"TIERKEEPER_CONFIG": str(served_demo.config)}
    assert served_demo.config.stat().st_mode & 0o077 == 0, "passwords are in it"
    assert (told.demo.lost, told.demo.doubled, told.demo.verified, told.demo.restore_matches, told.demo.query_matches) == (
        0, 0, True, True, True,
    )  # fmt: skip
    assert told.demo.tiers["core"].bytes_after < told.demo.tiers["core"].quota_bytes < told.demo.tiers["core"].bytes_before
    assert served_demo.ask("check")["ok"] is True
    verified = second("archive", "verify")
    assert (verified["ok"], verified["checked"]) == (True, verified["segments"])
    assert second("query", "SELECT count(*) AS n FROM flights") == [{"n": 336_776}]
    line = "from multi_tier_setup import MultiTierSetup; MultiTierSetup().validate_configuration()"
    assert "public.flights" in served_demo.run("python3", "-c", line).stdout
    assert list(served_demo.demo.home.rglob("*")) == [], "it leaves nothing elsewhere"


def two_weeks_are_due_and_no_row_is_lost_when_the_functions_move_them(served_demo: ServedDemo, second: Command) -> None:
    """By `serverless invoke local`, as the user's document has it."""
    today = datetime.now(UTC)
    days = (datetime.fromisoformat(served_demo.told["demo"]["today"]) + timedelta(days=13) - _DATA_ENDS).days
    with closing(served_demo.links["core"].connect("oracle")) as conn:
        counts = "SELECT count(*) FILTER (WHERE time_hour < %s), max(time_hour) FROM public.flights"
        due, newest = conn.execute(counts, (today - timedelta(days=90),)).fetchone() or (0, today)
        assert today - timedelta(days=2) < newest < today, "flights until yesterday, and none of tomorrow"
    note, asked = served_demo.board()["last_note"], time.time()
    assert invoked(served_demo, SETUP)["applied"] is True
    assert all(check["healthy"] for check in invoked(served_demo, BALANCER)["checks"])
    planned = invoked(served_demo, MANAGER, '{"dry_run": true}')
    assert planned["dry_run"] is True
    with closing(served_demo.links["core"].connect("oracle")) as conn:
        assert conn.execute(counts, (today - timedelta(days=90),)).fetchone() == (due, newest)
    assert sum(run["rows"] for run in invoked(served_demo, ARCHIVER)["runs"]) > 10_000
    moved = {(m["from"], m["to"]): m["rows"] for m in invoked(served_demo, MANAGER)["moves"]}
    assert 10_000 < moved["core", "main"] <= due + 1_000
    assert lost_and_extra(served_demo, second, days) == (0, 0)
    with closing(served_demo.links["core"].connect("oracle")) as conn:
        assert conn.execute(counts, (today - timedelta(days=90),)).fetchone() == (0, newest)
    seen = []

    def counted_again() -> bool:
        time.sleep(0.5)
        seen.append(served_demo.board())
        return bool(seen[-1]["proof"]["current"]) and seen[-1]["last_note"] > note

    assert eventually(counted_again, 60)
    for board in seen:
        counted = datetime.fromisoformat(board["proof"]["counted_at"]).timestamp()
        fresh = board["last_note"] == note or counted > asked
        assert fresh or not board["proof"]["current"], "a count of before passed for one of now"
    assert (seen[-1]["proof"]["lost"], seen[-1]["proof"]["doubled"]) == (0, 0)


def invoked(served: ServedDemo, function: str, data: str = "{}") -> dict[str, Any]:
    ended = serverless(ROOT, "invoke", "local", "--function", function, "--data", data, environment=served.environment)
    assert ended.code == 0, ended.text
    return dict(json.loads(ended.out))


@pytest.mark.long
def test_a_row_that_somebody_deletes_is_missed_at_the_next_count(served_demo: ServedDemo) -> None:
    """The count is of the tiers, not of what the keeper believes. The row is put back."""
    with closing(served_demo.links["core"].connect("vandal")) as conn:
        (row,) = conn.execute(
            "DELETE FROM public.flights WHERE ctid = (SELECT min(ctid) FROM public.flights) RETURNING *"
        ).fetchall()
        try:
            served_demo.ask("move", "flights", "--from", "core", "--to", "main")  # whatever it finds, it is in the audit
            assert eventually(lambda: served_demo.board()["proof"]["lost"] == 1, 60)
            assert "1 row lost, 0 rows doubled" in Seen(httpx.get(served_demo.page).text).text
        finally:
            conn.execute(f"INSERT INTO public.flights VALUES ({', '.join(['%s'] * len(row))})", row)
    served_demo.ask("move", "flights", "--from", "core", "--to", "main")
    assert eventually(lambda: served_demo.board()["proof"]["current"] and served_demo.board()["proof"]["lost"] == 0, 60)


def the_page_is_the_board_and_reloading_it_asks_nobody(served_demo: ServedDemo, second: Command) -> None:
    del second
    board = BoardResult.model_validate(served_demo.board())
    answer = httpx.get(served_demo.page)
    seen = Seen(answer.text)
    assert sorted(board.tiers) == ["archive", "core", "main"]
    assert all(t.healthy for t in board.tiers.values())
    assert board.tables["public.flights"].archive_rows
    assert f"{board.tables['public.flights'].archive_rows:,}" in seen.text
    assert board.moves
    assert {m.state for m in board.moves} == {"verified"}
    assert {m.rows and m.rows > 0 for m in board.moves} == {True}
    assert len(board.segments or ()) == (board.archive.segments if board.archive else None)
    assert {a.verb for a in board.audit or ()} >= {"quota", "move"}
    with closing(served_demo.links["core"].connect("oracle")) as conn:
        sessions = "SELECT sessions FROM pg_stat_database WHERE datname = current_database()"
        assert eventually(lambda: served_demo.board()["at"] != board.at.isoformat())
        before, began = conn.execute(sessions).fetchone() or (0,), time.monotonic()
        for _ in range(50):
            httpx.get(served_demo.page)
        looks = (time.monotonic() - began) / board.fresh_seconds + 2
        after = conn.execute(sessions).fetchone() or (0,)
    assert after[0] - before[0] <= 4 * looks
    secret = served_demo.links["core"].parameters["password"]
    assert secret not in answer.text + json.dumps(served_demo.board())


def only_who_means_this_machine_reads_it(served_demo: ServedDemo, second: Command) -> None:
    del second
    port = httpx.URL(served_demo.page).port
    for host, code in (
        (f"127.0.0.1:{port}", 200),
        (f"localhost:{port}", 200),
        ("evil.example", 421),
        (f"evil.example:{port}", 421),
    ):
        for path in ("", "board.json"):
            answer = httpx.get(served_demo.page + path, headers={"Host": host})
            assert answer.status_code == code
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert ("public.flights" in answer.text) == (code == 200)
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert httpx.request(method, served_demo.page).status_code == 405
    assert httpx.get(f"{served_demo.page}../../etc/passwd").status_code == 404
    with socket.create_connection(("127.0.0.1", port or 0)) as raw:
        raw.sendall(b"GET / HTTP/1.0\r\n\r\n")
        assert b" 421 " in raw.recv(1000)


def test_a_demo_that_stays(served_demo: ServedDemo, second: Command, subtests: pytest.Subtests) -> None:
    """One test, for each worker that had one of several would start a demo of its own."""
    for part in (
        one_variable_is_enough_for_a_second_terminal,
        the_page_is_the_board_and_reloading_it_asks_nobody,
        only_who_means_this_machine_reads_it,
        two_weeks_are_due_and_no_row_is_lost_when_the_functions_move_them,
    ):
        with subtests.test(part.__name__):
            part(served_demo, second)


@pytest.mark.parametrize(("number", "after_seconds"), sampled(ENDS, ENDS[0]))
def test_whatever_ends_it_no_server_stays_and_no_folder(number: signal.Signals, after_seconds: float) -> None:
    """At any moment from its first server on. What kill -9 leaves of its folder the next demo takes away."""
    with workspace("tierkeeper-tests-") as own:
        demo = Demo.begin(own)
        assert eventually(lambda: len(demo.servers()) > 0, 60)
        time.sleep(after_seconds)
        code = demo.end(number)
        if number == signal.SIGKILL:
            assert code == -signal.SIGKILL
            (left,) = demo.folder.glob("tierkeeper-demo-*")
            assert folder.sweep(demo.folder) == [left]
        else:
            assert code in (0, 75), (own / "stderr").read_text()
        assert list(demo.folder.iterdir()) == []


def refusal(capsys: pytest.CaptureFixture[str], *argv: str) -> dict[str, Any]:
    assert run(["demo", *argv, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert isinstance(error, dict), "one fault, one error"
    return error


def test_a_port_that_is_taken_is_said_before_anything_begins(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert refusal(capsys, "--serve", "--port", str(port))["place"] == f"--port (127.0.0.1:{port})"
    assert refusal(capsys, "--serve", "--port", "0")["place"] == "--port"
    assert refusal(capsys, "--serve", "--port", "65536")["place"] == "--port"
    assert "--serve" in refusal(capsys, "--port", "8900")["remedy"]


def test_a_missing_extra_is_named(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "find_spec", lambda name: None if name == "fastapi" else object())
    error = refusal(capsys, "--serve")
    assert "fastapi" in error["cause"]
    assert "pip install 'tierkeeper[demo]'" in error["remedy"]
