"""What a person types to say whom to believe, and what the machine reads of whom nobody does."""

import json

import pytest

from chains import sign
from tierkeeper.cli import output
from tierkeeper.cli.trusting import given
from tierkeeper.kernel.errors import Faults, NotNow, UsageError
from tierkeeper.postgres import certificates
from tierkeeper.postgres.link import Link
from tierkeeper.postgres.trust import judged, spelled

ROOT = sign("root\x1b[31m", 3000)


def test_a_fingerprint_is_read_however_it_is_written() -> None:
    for text in (ROOT.sha256, ROOT.sha256.upper(), spelled(ROOT.sha256), f"SHA256:{spelled(ROOT.sha256)}"):
        assert given([f"core={text}"]) == {"core": ROOT.sha256}


@pytest.mark.parametrize(
    "texts",
    [["core"], ["core="], ["core=ab"], [f"moon={ROOT.sha256}"], [f"core={ROOT.sha256}0"], [f"core={ROOT.sha256}"] * 2],
)
def test_what_is_no_fingerprint_of_a_tier_is_refused(texts: list[str]) -> None:
    with pytest.raises(UsageError) as refused:
        given(texts)
    assert refused.value.place == "--trust"


def test_a_chain_is_told_as_values_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    link = Link("core", "postgresql://u:p@db.example.com/d")
    untrusted = judged(link, "tiers.core", certificates.read([ROOT.der]), None, None)
    output.show_error(Faults([untrusted, NotNow("tiers.main", "away", "Start it")]), as_json=True, debug=False)
    first, second = json.loads(capsys.readouterr().out)["error"]
    assert (first["tier"], first["host"], first["authority"], first["pinned"]) == ("core", "db.example.com", ROOT.sha256, None)
    assert [(c["sha256"], set(c)) for c in first["chain"]] == [(ROOT.sha256, {"subject", "issuer", "valid_until", "sha256"})]
    assert set(second) == {"place", "cause", "remedy"}
    output.show_error(untrusted, as_json=False, debug=False)
    seen = capsys.readouterr().err
    assert spelled(ROOT.sha256) in seen
    assert "\x1b" not in seen
