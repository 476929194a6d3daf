"""What is said of a chain that nobody here vouches for."""

import pytest

from chains import Signed, sign
from tierkeeper.kernel.errors import Exit
from tierkeeper.postgres import certificates
from tierkeeper.postgres.certificates import Shown
from tierkeeper.postgres.handshake import Refusal
from tierkeeper.postgres.link import Link, UnverifiedError
from tierkeeper.postgres.trust import explained, judged, may_be_pinned, spelled

ROOT = sign("root", 3000)
NEWER = sign("root", 3000, ROOT)  # another key of the same name, which the old one has signed
BETWEEN = sign("between", 300, ROOT)
LEAF = sign("server", 30, BETWEEN, authority=False)
SELF = sign("alone", 30, authority=False)
CORE = Link("core", "postgresql://u:p@db.example.com/d", pin="/pins/core.pem")
OTHER = certificates.read([sign("other", 3000).der])[0]


def chain(*shown: Signed) -> list[Shown]:
    return certificates.read([one.der for one in shown])


def test_a_chain_is_read_as_far_as_it_leads() -> None:
    assert [one.sha256 for one in chain(LEAF, ROOT, BETWEEN)] == [LEAF.sha256, BETWEEN.sha256, ROOT.sha256]
    assert [one.sha256 for one in chain(LEAF, ROOT)] == [LEAF.sha256], "a root that has signed nothing of it proves nothing"
    assert [one.signs_itself for one in chain(LEAF, BETWEEN, ROOT)] == [False, False, True]
    assert chain(NEWER)[0].signs_itself is False, "its name alone is its issuer's"
    with pytest.raises(ValueError, match=r".*"):
        certificates.read([b"none"])


@pytest.mark.parametrize(
    ("shown", "refused", "pinned", "said", "may"),
    [
        ((LEAF, BETWEEN, ROOT), None, None, (f"CN=root, SHA-256 {spelled(ROOT.sha256)}", f"core={ROOT.sha256}"), True),
        ((LEAF, BETWEEN), None, None, ("the one above it, CN=root, is not shown", f"core={BETWEEN.sha256}"), True),
        ((SELF,), None, None, ("signed by nobody but itself", f"core={SELF.sha256}"), True),
        ((LEAF,), Refusal("x", True), None, ("alone, signed by CN=between", "have the server show it"), False),
        ((LEAF, BETWEEN, ROOT), Refusal("has expired", False), None, ("would not do: has expired", "renewed"), False),
        ((LEAF, BETWEEN, ROOT), None, OTHER, (f"SHA-256 {spelled(OTHER.sha256)}", "Somebody may be in between"), True),
        ((LEAF,), None, OTHER, (f"SHA-256 {spelled(OTHER.sha256)}", "delete /pins/core.pem"), False),
    ],
)
def test_what_may_be_confirmed_is_the_topmost(
    shown: tuple[Signed, ...], refused: Refusal | None, pinned: Shown | None, said: tuple[str, str], may: bool
) -> None:
    told = judged(CORE, "tiers.core (x)", chain(*shown), refused, pinned)
    assert said[0] in told.cause
    assert said[1] in told.remedy
    assert (told.place, told.exit_code) == ("tiers.core (x)", Exit.USAGE)
    assert (told.authority is not None) is may
    if told.authority is not None:
        assert told.authority.der == shown[-1].der
        assert "--trust" in told.remedy
    else:
        assert "--trust" not in told.remedy
    assert told.pinned == pinned


def test_where_to_compare_depends_on_the_provider() -> None:
    hosted = Link("core", "postgresql://u:p@aws-0-x.pooler.supabase.com/d")
    assert "Supabase's dashboard" in judged(hosted, "p", chain(SELF), None, None).remedy
    assert "Supabase" not in judged(Link("core", "postgresql://u@supabase.com.evil/d"), "p", chain(SELF), None, None).remedy


@pytest.mark.parametrize(
    ("link", "may"),
    [
        (Link("core", "postgresql://u@db.example.com/d"), True),
        (Link("core", "postgresql://u@127.0.0.1/d?sslmode=verify-full"), True),
        (Link("core", "postgresql://u@db.example.com/d", "ca.pem"), False),
        (Link("core", "postgresql://u@db.example.com/d?sslrootcert=system"), False),
        (Link("core", "postgresql://u@127.0.0.1/d"), False),
        (Link("core", "postgresql://u@db.example.com/d", insecure=True), False),
        (Link("--on", "postgresql://u@db.example.com/d"), False),
    ],
)
def test_a_pin_counts_for_a_tier_that_is_verified_and_whose_authority_nobody_named(link: Link, may: bool) -> None:
    assert may_be_pinned(link) is may
    if not may:
        error = UnverifiedError("p", "c", "r")
        assert explained(link, error) is error
