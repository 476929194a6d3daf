"""Which certificates of a shown chain a link rests on."""

import pytest

from chains import sign
from tierkeeper.postgres.certificates import is_verified, needed
from tierkeeper.postgres.link import Link

ROOT = sign("root", 3000)
OLD_ROOT = sign("an old root", -30)
CROSS = sign("root", -10, OLD_ROOT)  # the root's name, signed by one that clients knew before it
BETWEEN = sign("between", 300, ROOT)
LEAF = sign("server", 30, BETWEEN, authority=False)
ANCHORS = {ROOT.certificate.subject}


def test_from_the_servers_own_to_what_the_clients_authority_has_signed() -> None:
    shown = [LEAF.certificate, CROSS.certificate, BETWEEN.certificate, OLD_ROOT.certificate]
    assert needed(shown, ANCHORS) == [LEAF.certificate, BETWEEN.certificate]
    assert needed(shown, ()) == [LEAF.certificate, BETWEEN.certificate, CROSS.certificate, OLD_ROOT.certificate]


def test_what_is_missing_or_signs_itself_ends_it() -> None:
    assert needed([], ANCHORS) == []
    assert needed([LEAF.certificate], ANCHORS) == [LEAF.certificate]
    assert needed([ROOT.certificate], ()) == [ROOT.certificate]


@pytest.mark.parametrize(
    ("url", "ca", "verified"),
    [
        ("postgresql://u@db.example/d", None, True),
        ("postgresql://u@127.0.0.1/d", None, False),
        ("postgresql://u@127.0.0.1/d", "ca.crt", True),
        ("postgresql://u@127.0.0.1/d?sslmode=require", None, False),
    ],
)
def test_an_end_matters_where_the_link_verifies(url: str, ca: str | None, verified: bool) -> None:
    assert is_verified(Link("core", url, ca)) is verified
