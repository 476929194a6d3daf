"""A job that takes longer than an invocation: each ends by itself before it is killed, and one after another comes to the end."""

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import pyarrow.parquet as pq
import pytest

import processes
from faultproxy import FaultProxy
from invocations import Context, Invocation, invoke
from support import Tiers, TiersFactory, sampled, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.demo.server import EmbeddedPostgres
from tierkeeper.functions import handlers
from tierkeeper.kernel.errors import NotNow
from tierkeeper.kernel.stop import TIME_LIMIT

POLICY = ({"name": "public.t", "age": "at", "core": "30 days", "main": "60 days"},)
FILL = """
INSERT INTO public.t
SELECT i, now() - interval '400 days' + i * interval '1 second', md5(i::text) FROM generate_series(1, {rows}) AS i;
INSERT INTO public.t SELECT -i, now(), 'stays' FROM generate_series(1, 100) AS i;
ANALYZE public.t;
"""


@dataclass(frozen=True)
class Job:
    """Rows to move, over a link of so many bytes a second, by invocations of so many seconds of a function.

    The quota manager takes them from Core to Main, and from there to the archive; the archiver finds them in Main.
    """

    module: str
    rows: int
    bytes_per_second: float
    seconds: float
    cold: bool
    limited: int  # invocations; then the link is wide, and the time long

    @property
    def hops(self) -> int:
        return 2 if self.module == "multi_tier_quota_manager" else 1


MOST = 30  # invocations: one that gets nowhere is to be seen
SHORT = Job("home_server_archiver", 24_000, 350_000, 4, cold=False, limited=2)
LONG = Job("multi_tier_quota_manager", 500_000, 2_000_000, 20, cold=True, limited=MOST)


class Far:
    """Tiers behind one slow link. Its oracle counts the user's rows, wherever they are, and reads nothing of tierkeeper's."""

    def __init__(self, tiers: Tiers, proxy: FaultProxy, job: Job) -> None:
        self.tiers, self.proxy, self.job = tiers, proxy, job
        with closing(tiers.core.connect("app")) as core:
            core.execute("CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz NOT NULL, v text)")
        near = tierkeeper_toml(tiers, POLICY)
        self.near = near.rename(tiers.home / "near.toml")
        open_keeper(load(self.near, {}, tiers.home), environment=tiers.environment).setup(apply=True)
        with closing((tiers.core if job.hops > 1 else tiers.main).connect("app")) as conn:
            conn.execute(FILL.format(rows=job.rows).encode())
        through = Tiers(proxy.link(tiers.core), proxy.link(tiers.main), proxy.link(tiers.catalog), tiers.store, tiers.home)
        tierkeeper_toml(through, POLICY)
        processes.command(["--help"], tiers.environment)  # what warm invocations are forked from is there from here on
        proxy.delay(0.005)
        proxy.narrow(job.bytes_per_second)

    def invoke(self, module: str, event: object, seconds: float) -> Invocation:
        found = invoke(module, event, self.tiers.environment, self.tiers.home, seconds, cold=self.job.cold)
        assert not found.killed, f"{module} was killed at its limit of {seconds} seconds\n{found.log}"
        print(  # noqa: T201
            f"{found.seconds:.1f} s",
            {k: v for k, v in found.answer.items() if k in ("stopped_because", "left", "raised", "text")},
        )
        return found

    def ids(self) -> list[int]:
        """Every row's id, each as often as it is anywhere."""
        found: list[int] = []
        for link in (self.tiers.core, self.tiers.main):
            with closing(link.connect("oracle")) as conn:
                if conn.execute("SELECT to_regclass('public.t')").fetchone() != (None,):
                    found += [r[0] for r in conn.execute("SELECT id FROM public.t").fetchall()]
        out = self.tiers.home / "out.parquet"
        out.unlink(missing_ok=True)
        ended = processes.command(
            ["--config", str(self.near), "archive", "restore", "public.t", "--to", str(out)], self.tiers.environment
        )
        if ended.returncode == 0:
            found += pq.read_table(out, columns=["id"]).column("id").to_pylist()
        else:
            assert "no segment of it counts" in ended.stderr, ended.stderr
        return found

    def nothing_is_lost_or_doubled(self) -> None:
        found = self.ids()
        assert len(found) == len(set(found)) == self.job.rows + 100


@pytest.fixture
def far(request: pytest.FixtureRequest, make_tiers: TiersFactory, cluster: EmbeddedPostgres) -> Iterator[Far]:
    with FaultProxy(cluster.port) as proxy:
        yield Far(make_tiers(), proxy, request.param)


def moved(answer: dict[str, Any]) -> int:
    return sum(m["rows"] for m in answer.get("moves", answer.get("runs")))


@pytest.mark.parametrize("far", sampled([SHORT, LONG], SHORT), indirect=True, ids=["short", "long"])
def test_one_invocation_after_another_comes_to_the_end(far: Far) -> None:
    """A link that is slower than it was thought may have a run interrupted; it says so, and the next one goes on, too.

    Every day two are seen to end by themselves, and a third one to go on from there.
    """
    answers: list[dict[str, Any]] = []
    while not answers or "raised" in answers[-1] or answers[-1]["left"]:
        assert len(answers) < MOST, "it does not come to an end"
        if len(answers) == far.job.limited:
            far.proxy.heal()
        answers.append(dict(far.invoke(far.job.module, {}, 60 if len(answers) >= far.job.limited else far.job.seconds).answer))
        assert answers[-1].get("text", TIME_LIMIT).startswith(TIME_LIMIT)
    assert len(answers) > 1, "one invocation was enough: nothing was proven"
    told = [a for a in answers if "raised" not in a]
    assert {a["stopped_because"] for a in told[:-1]} <= {TIME_LIMIT}
    assert far.job.limited < MOST or len(told) > len(answers) / 2, "they are asked too late: most had to be interrupted"
    if len(told) == len(answers):  # one that was interrupted moved rows that no answer tells of
        assert sum(moved(a) for a in told) == far.job.hops * far.job.rows
    far.proxy.heal()
    far.nothing_is_lost_or_doubled()


@pytest.mark.long
@pytest.mark.parametrize("far", [replace(SHORT, rows=6_000)], indirect=True, ids=["few"])
def test_what_has_no_safe_point_is_taken_back(far: Far) -> None:
    """A lock that somebody holds for long, and a restore that the link is too slow for."""
    with closing(far.tiers.main.connect("app")) as app, app.transaction():
        app.execute("LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
        held = far.invoke("home_server_archiver", {}, 3)
        assert held.raised is not None
        assert held.raised.startswith(TIME_LIMIT)
    far.proxy.heal()
    assert far.invoke("home_server_archiver", {}, 60).answer["left"] == []
    far.proxy.narrow(60_000)
    restore = {"action": "restore", "table": "public.t", "to": "public.back"}
    cut = far.invoke("home_server_archiver", restore, 3)
    assert cut.raised is not None
    assert "nothing was restored, unless all of it was" in cut.raised
    far.proxy.heal()
    with closing(far.tiers.main.connect("oracle")) as conn:
        assert conn.execute("SELECT to_regclass('public.back')").fetchone() == (None,)
        assert far.invoke("home_server_archiver", restore, 60).answer["rows"] == far.job.rows
        assert conn.execute("SELECT count(*) FROM public.back").fetchone() == (far.job.rows,)
    far.nothing_is_lost_or_doubled()


@pytest.mark.long
@pytest.mark.parametrize("far", [replace(LONG, rows=100_000, bytes_per_second=200_000)], indirect=True, ids=["too slow"])
def test_an_instance_that_was_interrupted_is_used_again(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """A link over which hardly anything comes to its end: what one invocation had to cut keeps no later one, in one process."""
    for name, value in far.tiers.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(far.tiers.home)
    interrupted = 0
    for seconds in (6, 8, 10, 10):
        began = time.monotonic()
        try:
            handlers.multi_tier_quota_manager({}, Context(began, seconds))
        except NotNow as error:
            assert error.place == TIME_LIMIT
            interrupted += "interrupted" in error.cause
        assert time.monotonic() - began < seconds
    assert interrupted, "the link was fast enough: nothing was proven"
    far.proxy.heal()
    while handlers.multi_tier_quota_manager({}, Context(time.monotonic(), 100))["left"]:
        pass
    far.nothing_is_lost_or_doubled()
