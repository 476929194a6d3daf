"""What a browser and Prometheus are told."""

from datetime import UTC, datetime
from html.parser import HTMLParser

from prometheus_client.parser import text_string_to_metric_families

from tierkeeper.kernel.results import BalanceBackend, BalanceService, BalanceShare, BalanceStatusResult, BalanceTier
from tierkeeper.web import dashboard, gauges

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
EVIL = "<script>alert(1)</script>\"' onload=x &amp;"


def status(text: str) -> BalanceStatusResult:
    half, most = BalanceShare(takes="traffic", weight=100, share=0.5), BalanceShare(takes="traffic", weight=1, share=9.0)
    backend = BalanceBackend(
        name=text, state=text, role=text, why=text, since=NOW, again_at=NOW, priority=0, latency_seconds=0.0123,
        ports={"db": half, text: most}, requests=1234, errors=5, changes=2,
    )  # fmt: skip
    service = BalanceService(
        name=text, protocol="postgres", algorithm=text, listen=text, listen_reads=text, primary=text, why=text, backends=[backend]
    )
    tier = BalanceTier(name=text, state=text, why=text, since=NOW, asked_at=NOW, away=True)
    facts = {"version": text, "restarts": 3}
    return BalanceStatusResult(running=True, at=NOW, plane=facts, services=[service], tiers=[tier], notes=[text])


class Seen(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        assert tag == "style" or not any("script" in (value or "") for _, value in attrs)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_nothing_that_a_name_says_becomes_markup() -> None:
    seen = Seen()
    seen.feed(dashboard.page(status(EVIL)))
    assert "script" not in seen.tags
    assert seen.attributes <= {"lang", "charset", "http-equiv", "content", "name", "class", "style"}
    assert seen.text.count(EVIL) >= 13
    assert seen.tags.isdisjoint({"link", "img", "iframe", "form", "a"}), "it needs nothing from anywhere and changes nothing"


def test_a_page_without_services_is_one() -> None:
    assert "No service is balanced" in dashboard.page(BalanceStatusResult(running=True))


def test_labels_and_numbers_reach_prometheus_whole() -> None:
    families = {f.name: f for f in text_string_to_metric_families(gauges.text(status(EVIL)).decode())}
    (requests,) = families["tierkeeper_balance_requests"].samples
    assert (requests.name, requests.value, requests.labels) == (
        "tierkeeper_balance_requests_total", 1234.0, {"service": EVIL, "backend": EVIL},
    )  # fmt: skip
    assert families["tierkeeper_balance_primary"].samples[0].value == 1.0
    assert families["tierkeeper_balance_plane_restarts"].samples[0].value == 3.0
    assert {s.labels["port"] for s in families["tierkeeper_balance_share"].samples} == {"db", EVIL}
    (tier,) = families["tierkeeper_balance_tier_up"].samples
    assert (tier.labels, tier.value) == ({"tier": EVIL}, 0.0)
    assert families["tierkeeper_balance_faulty"].samples[0].value == 1.0
