from pathlib import Path

import pytest

from tierkeeper.config import load
from tierkeeper.config.price import TierPrice, in_one_currency
from tierkeeper.kernel.errors import Faults
from tierkeeper.tiers.price import NOTHING, Price
from tierkeeper.tiers.profile import SUPABASE_FREE

TIERS = """
[tiers.core]
url = "postgresql://a:b@127.0.0.1/core"
[tiers.main]
url = "postgresql://a:b@127.0.0.1/main"
[tiers.archive]
catalog = "postgresql://a:b@127.0.0.1/archive"
store = "/tmp/store"
"""


def faults(tmp_path: Path, extra: str) -> list[str]:
    (tmp_path / "tierkeeper.toml").write_text(TIERS + extra, encoding="utf-8")
    with pytest.raises(Faults) as caught:
        load(None, {}, tmp_path)
    return [e.place.removeprefix("tierkeeper.toml: ") for e in caught.value.errors]


def test_what_is_left_out_is_the_profiles() -> None:
    assert TierPrice().over(SUPABASE_FREE.price) == SUPABASE_FREE.price
    assert TierPrice(storage=0.125, egress=0.09, currency="EUR").over(SUPABASE_FREE.price) == Price(0.125, 0.09, currency="EUR")
    assert TierPrice(egress="forbidden").over(NOTHING).egress_per_gb is None


def test_what_is_free_is_so_in_the_currency_of_the_others() -> None:
    given = {"core": TierPrice(), "main": TierPrice(fixed=5, currency="EUR")}
    found = in_one_currency({n: p.over(NOTHING) for n, p in given.items()}, given)
    assert {p.currency for p in found.values()} == {"EUR"}
    assert in_one_currency({"core": NOTHING}, {"core": TierPrice()})["core"].currency == "USD"


def test_a_price_that_is_none_and_two_currencies_are_faults(tmp_path: Path) -> None:
    assert faults(tmp_path, "[tiers.core.price]\nstorage = -1\n") == ["tiers.core.price.storage"]
    assert faults(tmp_path, '[tiers.core.price]\ncurrency = "euro"\n') == ["tiers.core.price.currency"]
    assert "tiers.main.price.currency" in faults(
        tmp_path, '[tiers.core.price]\ncurrency = "USD"\n[tiers.main.price]\ncurrency = "EUR"\n'
    )  # fmt: skip
    assert faults(tmp_path, '[quotas]\nreads_in_core = "95"\n') == ["quotas.reads_in_core"]


@pytest.mark.parametrize(
    "line", ['egress = "forbid"', "egress = -3", "egress = nan", "egress = true", "storage = inf", 'currency = "eur"']
)
def test_a_wrong_price_is_one_fault_that_says_what_to_write(tmp_path: Path, line: str) -> None:
    (tmp_path / "tierkeeper.toml").write_text(f"{TIERS}[tiers.core.price]\n{line}\n", encoding="utf-8")
    with pytest.raises(Faults) as caught:
        load(None, {}, tmp_path)
    (fault,) = caught.value.errors
    assert fault.place.endswith(f"tiers.core.price.{line.split(' ', maxsplit=1)[0]}")
    assert fault.remedy.startswith("Write ")
