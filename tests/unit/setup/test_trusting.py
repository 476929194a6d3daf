"""Which authorities may be pinned, and which have to be asked for."""

import pytest

from chains import Signed, sign
from tierkeeper.kernel.errors import UsageError
from tierkeeper.postgres import certificates
from tierkeeper.postgres.link import Link
from tierkeeper.postgres.trust import Untrusted
from tierkeeper.setup.trusting import decide, in_order

ROOT, OTHER = sign("root", 3000), sign("other", 3000)


def untrusted(tier: str, authority: Signed | None = ROOT, pinned: Signed | None = None) -> Untrusted:
    link = Link(tier, f"postgresql://u:p@{tier}.example.com/d")
    (top,) = certificates.read([(authority or ROOT).der])
    before = None if pinned is None else certificates.read([pinned.der])[0]
    told = UsageError(f"tiers.{tier}", "c", "r")
    return Untrusted(told, link=link, chain=[top], authority=None if authority is None else top, pinned=before)


def test_one_question_for_one_authority_and_main_is_pinned_first() -> None:
    found = [untrusted("core"), untrusted("main"), untrusted("archive", OTHER)]
    decision = decide(found, {}, {})
    assert [[one.link.tier for one in c.shown] for c in decision.asked] == [["core", "main"], ["archive"]]
    assert (decision.confirmed, decision.faults) == ((), ())
    assert [one.link.tier for one, _ in in_order(decision.asked)] == ["main", "core", "archive"]


def test_one_that_takes_anothers_place_is_a_question_of_its_own() -> None:
    decision = decide([untrusted("core", pinned=OTHER), untrusted("main")], {}, {})
    assert len(decision.asked) == 2


def test_a_fingerprint_confirms_what_has_it() -> None:
    decision = decide([untrusted("core"), untrusted("main")], {"core": ROOT.sha256}, {})
    assert [[one.link.tier for one in c.shown] for c in decision.confirmed] == [["core"]]
    assert [[one.link.tier for one in c.shown] for c in decision.asked] == [["main"]]
    wrong = decide([untrusted("core"), untrusted("main")], {"core": OTHER.sha256}, {})
    assert [f.place for f in wrong.faults] == ["--trust core"]
    assert wrong.confirmed == ()


def test_what_cannot_be_pinned_is_a_fault_whatever_was_given() -> None:
    one = untrusted("core", None)
    assert decide([one], {"core": ROOT.sha256}, {}).faults == (one,)


@pytest.mark.parametrize(
    ("pinned", "fine"), [(ROOT.sha256, True), (OTHER.sha256, False), (None, False)], ids=["the same", "another", "none"]
)
def test_a_fingerprint_for_a_server_that_is_believed(pinned: str | None, fine: bool) -> None:
    """The same command twice is fine; any other wish would not come true."""
    assert (decide([], {"core": ROOT.sha256}, {"core": pinned}).faults == ()) is fine
