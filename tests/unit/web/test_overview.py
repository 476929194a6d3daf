"""The page of the tiers: what it says first, what it never says, and that nothing becomes markup."""

import re
from base64 import b64encode
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import pytest
from pydantic import BaseModel

from pages import Seen
from tierkeeper.kernel.results import (
    AlertResult,
    BoardAction,
    BoardJob,
    BoardMove,
    BoardProof,
    BoardResult,
    BoardSegment,
    BoardTable,
    CostResult,
    DrillStatus,
    FaultResult,
    ForecastResult,
    ReadingStatus,
    TierStatus,
)
from tierkeeper.monitoring.alerts.model import Kind
from tierkeeper.web import board as web
from tierkeeper.web import overview
from tierkeeper.web.verdict import judge, needs

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = "<script>alert(1)</script>\"' onload=x &amp;"
READING = ReadingStatus(segments=3, unread=1, oldest_read_at=NOW, first_written_at=NOW)
PROOF = BoardProof(rows=336_776, lost=0, doubled=0, counted_at=NOW, seconds=2, current=True)


def tier(**more: Any) -> TierStatus:
    given = {"used_bytes": 33_000_000, "quota_bytes": 40_000_000, "share": 0.825, "healthy": True, "read_only": False}
    return TierStatus(**{**given, **more})


def board(**more: Any) -> BoardResult:
    given: dict[str, Any] = {
        "at": NOW, "fresh_seconds": 5, "tiers": {name: tier() for name in ("core", "main", "archive")}, "archive": READING,
        "tables": {"public.flights": BoardTable(mode="move", core_rows_estimate=82_440, archive_rows=169_734, in_flight=0)},
        "moves": [], "audit": [], "segments": [],
    }  # fmt: skip
    return BoardResult(**{**given, **more})


DAMAGE = AlertResult(
    kind=Kind.DAMAGED, subject="segment 7", severity="serious", state="firing", what="x", cause="y", remedy="z", since=NOW
)
AWAY = tier(used_bytes=None, share=None, healthy=False, read_only=None, cause="Connection refused", remedy="Start it")


def move(**more: Any) -> BoardMove:
    given = {"at": NOW, "table": "t", "from_": "core", "to": "main", "rows": 5, "seconds": 1, "state": "verified"}
    return BoardMove(**{**given, **more})


def test_all_well_is_said_of_a_count_that_is_of_now() -> None:
    told = judge(board(proof=PROOF))
    assert (told.level, told.headline) == ("good", "0 rows lost, 0 rows doubled")
    assert judge(board(moves=[move()])).headline == "No row is known to be lost"


@pytest.mark.parametrize(
    ("more", "level", "words"),
    [
        ({"proof": PROOF.model_copy(update={"lost": 3})}, "bad", "3 rows lost, 0 rows doubled"),
        ({"proof": PROOF.model_copy(update={"doubled": 1, "current": False})}, "bad", "0 rows lost, 1 row doubled"),
        ({"proof": PROOF.model_copy(update={"current": False})}, "warn", "at the last count, which is old"),
        ({"proof": PROOF, "old": True}, "warn", "These figures are old"),
        ({"proof": PROOF, "tiers": {"core": AWAY, "main": tier()}}, "warn", "Core cannot be seen"),
        ({"tiers": {"core": AWAY, "main": AWAY, "archive": tier()}}, "warn", "Core and Main cannot be seen"),
        ({"tiers": {}, "archive": None}, "warn", "Nothing is known yet"),
        ({"archive": None}, "warn", "No row is known to be lost"),
        ({"moves": [move(state="failed", rows=None)]}, "warn", "No row is known to be lost"),
        ({"moves": None}, "warn", "No row is known to be lost"),
        (
            {"errors": [FaultResult(place="tiers.main", cause="x", remedy="y", not_now=True)]},
            "warn",
            "No row is known to be lost",
        ),
        ({"tables": {"public.t": BoardTable(mode="none", cause="x", remedy="y")}}, "warn", "No row is known to be lost"),
        ({"alerts": [DAMAGE]}, "bad", "Something was found wrong"),
        ({"alerts": [DAMAGE], "proof": PROOF}, "bad", "Something was found wrong"),
        (
            {"archive": READING.model_copy(update={"drill": DrillStatus(at=NOW, ok=False, segments=3, restored=2)})},
            "bad",
            "Something was found wrong",
        ),
    ],
)
def test_all_well_is_never_said_of_anything_else(more: dict[str, Any], level: str, words: str) -> None:
    told = judge(board(**more))
    assert told.level == level
    assert words in told.headline
    seen = Seen(overview.page(board(**more)))
    assert words in seen.text
    assert seen.title.startswith({"bad": "\N{MULTIPLICATION X}", "warn": "!"}[level]), "it can be told from the tab"


def test_a_damaged_archive_is_not_said_to_be_read_back_whole() -> None:
    text = Seen(overview.page(board(alerts=[DAMAGE]))).text
    assert "each read back whole" not in text
    assert "damage was found (1 place)" in text


def test_an_old_figure_is_marked_and_dated() -> None:
    assert "Old figures: the tiers have not answered since 2026-01-02 03:04:05 UTC" in Seen(overview.page(board(old=True))).text
    assert "Old figures" not in Seen(overview.page(board())).text


def test_a_main_that_is_away_is_not_taken_for_one_that_has_nothing() -> None:
    text = Seen(overview.page(board(tiers={"main": AWAY}, moves=None, audit=None, segments=None))).text
    assert "Nothing has moved yet" not in text
    assert "Nothing was done yet" not in text
    assert "no segment yet" not in text
    assert text.count("does not answer") == 3


def test_what_wants_a_person_is_told_with_its_remedy() -> None:
    alert = AlertResult(
        kind="near",
        subject="core",
        severity="urgent",
        state="firing",
        what="it is full",
        cause="x",
        remedy="run quota",
        since=NOW,
    )
    found = needs(
        board(
            tiers={"core": AWAY, "main": tier(cause="91% of its quota is used", remedy="Run it")},
            tables={"t": BoardTable(mode="move", conflicts=2)},
            alerts=[alert],
            jobs={"quota": BoardJob(ok_at=None, cause="a lock")},
            undelivered={"0 mailto": "refused"},
            errors=[FaultResult(place="p", cause="c", remedy="r")],
        )
    )
    assert [(n.level, n.place) for n in found] == [
        ("bad", "core"), ("bad", "core"), ("bad", "p"), ("warn", "main"), ("warn", "t"), ("warn", "job quota"),
        ("warn", "0 mailto"),
    ]  # fmt: skip


def poisoned(model: type[BaseModel], **more: Any) -> Any:
    """An instance whose every text is EVIL."""
    texts = {name: EVIL for name, field in model.model_fields.items() if field.annotation in (str, str | None)}
    return model.model_validate({**texts, **more})


def test_nothing_that_anybody_says_becomes_markup() -> None:
    figures = {"confidence": "high", "likely": NOW, "days_to_full": 1, "earliest": None, "latest": None}
    forecast = poisoned(ForecastResult, **figures, bytes_per_day=1, net_bytes_per_day=1, history_days=1)
    unknown = forecast.model_copy(update={"confidence": "none"})
    cost = poisoned(CostResult, so_far=1, month=2, storage=0, egress=0, requests=0, fixed=0, egress_bytes=1)
    bad = {"used_bytes": 1, "quota_bytes": 2, "share": 9.0, "healthy": False, "read_only": False, "cost": cost}
    segment = {"rows": 1, "bytes": 1, "min_age": NOW, "max_age": None, "verified_at": None, "written_at": NOW}
    full = board(
        tiers={
            EVIL: poisoned(TierStatus, **bad, forecast=forecast, egress_budget_bytes=5),
            EVIL + "2": poisoned(TierStatus, **bad, forecast=unknown),
        },
        tables={EVIL: poisoned(BoardTable, in_flight=2, conflicts=1, core_due_estimate=5)},
        moves=[BoardMove(at=NOW, table=EVIL, from_=EVIL, to=EVIL, rows=1, seconds=1, state="failed", cause=EVIL)],
        segments=[poisoned(BoardSegment, **segment)],
        audit=[poisoned(BoardAction, at=NOW, state="open", seconds=None)],
        alerts=[poisoned(AlertResult, since=NOW)],
        jobs={EVIL: BoardJob(ok_at=NOW, cause=EVIL)},
        undelivered={EVIL: EVIL},
        errors=[FaultResult(place=EVIL, cause=EVIL, remedy=EVIL)],
        proof=PROOF.model_copy(update={"current": False, "error": FaultResult(place=EVIL, cause=EVIL, remedy=EVIL)}),
    )
    seen = Seen(overview.page(full))
    assert seen.tags.isdisjoint({"a", "img", "iframe", "form", "button"}), "it leads nowhere and changes nothing"
    assert seen.count("script") == 1
    assert seen.attributes.isdisjoint({"onload", "onerror", "style", "src"})
    assert seen.text.count(EVIL) >= 30


def test_only_its_own_script_and_style_run() -> None:
    page, policy = overview.page(board()), overview.HEADERS["Content-Security-Policy"]
    for tag in ("script", "style"):
        (text,) = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        assert f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" in policy
    assert "unsafe" not in policy
    assert "http:" not in policy


def test_it_is_whole_without_a_script() -> None:
    seen = Seen(overview.page(board(proof=PROOF, moves=[move(rows=242_294)])))
    for words in ("0 rows lost", "336,776", "33.0 MB", "82%", "~82,440", "169,734", "242,294", "verified"):
        assert words in seen.text
    assert re.search(r'<noscript><meta http-equiv="refresh" content="5">', overview.page(board()))


@pytest.mark.parametrize(
    ("host", "known"),
    [
        ("127.0.0.1:8900", True), ("127.0.0.1", True), ("[::1]:8900", True), ("[::1]", True), ("localhost:1", True),
        ("LOCALHOST", True), ("10.0.0.5:8900", True), ("tiers.lan:8900", True), ("Tiers.LAN.", True), ("", False),
        ("evil.example:8900", False), ("127.0.0.1.evil.example", False), ("localhost.evil.example:8900", False),
        ("xtiers.lan", False), ("127.0.0.1@evil.example", False), (":8900", False),
    ],
)  # fmt: skip
def test_a_name_that_nobody_gave_it_is_refused(host: str, known: bool) -> None:
    assert web.is_known(host, ("tiers.lan",)) is known


def test_of_many_tables_those_come_first_of_which_something_waits() -> None:
    tables = {f"t{n:04}": BoardTable(mode="move", in_flight=int(n == 700)) for n in range(1_000)}
    seen = Seen(overview.page(board(tables=tables)))
    assert seen.text.index("t0700") < seen.text.index("t0000")
    assert "900 more" in seen.text
    assert "t0999" not in seen.text


def test_sizes_of_days() -> None:
    soon = ForecastResult(
        confidence="high", reason="r", earliest=NOW, likely=NOW + timedelta(days=3), latest=NOW, days_to_full=3,
        bytes_per_day=1, net_bytes_per_day=1, history_days=9,
    )  # fmt: skip
    text = Seen(overview.page(board(tiers={"core": tier(forecast=soon), "archive": tier(share=0.0021)}))).text
    assert "2026-01-05 (confidence high)" in text
    assert "0.2%" in text
