"""The data plane by Envoy: the port `Plane`, put together from the files that Envoy reads and the process that reads them."""

import fcntl
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from tierkeeper.balance.envoy import checks, feeding, limits, names, process
from tierkeeper.balance.envoy.admin import Admin
from tierkeeper.balance.envoy.budget import Budget
from tierkeeper.balance.envoy.certificates import Copies
from tierkeeper.balance.envoy.clusters import cluster_name
from tierkeeper.balance.envoy.counting import Tally, adapted
from tierkeeper.balance.envoy.documents import Document, Layout, pool_key
from tierkeeper.balance.envoy.endpoints import Shares, complete
from tierkeeper.balance.envoy.fleet import Fleet
from tierkeeper.balance.envoy.render import bootstrap, documents, sampling, traffic
from tierkeeper.balance.envoy.samples import Receiver
from tierkeeper.balance.envoy.settling import Settling
from tierkeeper.balance.model import Certificate, Observation, Pool, Routing
from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError

_RETRIES: Final = r"^cluster\.p[0-9a-f]+\.upstream_rq_retry$"
_RETIRED_SPARE_SECONDS: Final = 2.0  # what a port that left began is over by then


class EnvoyPlane:
    """A plane whose state lies in `folder` (made, for this user alone). One brain at a time.

    `concurrency` is the number of Envoy's workers; left out, as many as this process may use CPUs. Methods may be called
    from any thread, one at a time.
    """

    def __init__(
        self,
        folder: Path,
        clock: Clock | None = None,
        *,
        concurrency: int | None = None,
        resolve: names.Resolve = names.system,
        resolve_seconds: float = limits.RESOLVE_SECONDS,
    ) -> None:
        self._folder = folder.absolute()
        self._clock = clock or SystemClock()
        self._layout = Layout(str(self._folder))
        self._admin = Admin(self._layout)
        self._feed = feeding.Feed(self._layout)
        self._settling = Settling(self._layout, self._admin, self._feed, self._clock)
        self._fleet = Fleet(self._layout, self._admin, self._clock, concurrency or len(os.sched_getaffinity(0)))
        self._names = names.Names(resolve, resolve_seconds)
        self._receiver = Receiver(self._layout)
        self._certificates = Copies(self._layout)
        self._tally = Tally()
        self._turn = threading.RLock()
        self._owned: int | None = None
        self._pools: tuple[Pool, ...] = ()
        self._retired: list[tuple[float, Pool]] = []
        self._shares: Shares = {}
        self._addresses: dict[str, str] = {}
        self._percents: dict[str, float] = {}
        self._budgets: dict[str, Budget] = {}
        self._observed = 0.0
        self._rejected: dict[str, int] = {}
        self._fault: str | None = None
        self._offered_at = 0.0

    def start(self, pools: Sequence[Pool], routing: Routing) -> None:
        with self._turn, self._translated():
            self._claim()
            try:
                self._begin(tuple(pools), routing)
            except BaseException:
                self._release()
                raise
            self._names.watch()
            self._observed = self._clock.monotonic()

    def reload(self, pools: Sequence[Pool], routing: Routing) -> None:
        with self._turn, self._translated():
            self._started()
            self._change(tuple(pools), routing)
            self._names.watch()  # there may have been no name before

    def publish(self, routing: Routing) -> None:
        with self._turn, self._translated():
            self._started()
            shares = complete(self._pools, routing, self._shares)
            self._feed.put(self._traffic(self._pools, shares, self._addresses))
            self._shares = shares
            self._save()

    def observe(self) -> Observation:
        with self._turn:
            self._started()
            hosts = self._admin.hosts()
            now = self._clock.monotonic()
            readings = self._tally.look(self._pools, self._addresses, hosts, self._receiver.take())
            self._adapt(now - self._observed)
            self._account(now - self._observed)
            self._observed = now
            return Observation(now, readings)

    def tend(self) -> str | None:
        with self._turn, self._translated():
            if self._owned is None:
                return None
            said = [self._revive(), self._moved(), *self._renewed(), self._refused(), self._offered()]
            self._sweep()
            process.bound_log(self._layout)
            return "; ".join(text for text in said if text) or None

    def facts(self) -> Mapping[str, str | int]:
        with self._turn:
            fault = {} if self._fault is None else {"fault": self._fault}
            return {"kind": "Envoy", "version": process.version().split("/")[1], **self._fleet.facts(), **fault}

    def stop(self) -> None:
        with self._turn:
            if self._owned is None:
                return
            try:
                self._fleet.drain_and_end()
                with suppress(OSError):
                    Path(self._layout.routing).unlink(missing_ok=True)
            finally:
                self._release()

    def leave(self) -> None:
        """Lets go of the plane and leaves it running, for another brain to take over."""
        with self._turn:
            self._release()

    # Beginning and ending.

    def _claim(self) -> None:
        if self._owned is not None:
            raise Failed("balance", "this plane has been started already", "Call `reload`")
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        owned = os.open(self._layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(owned, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(owned)
            raise NotNow(str(self._folder), "another balancer works with this folder", "End it, or name another folder") from None
        self._owned = owned

    def _release(self) -> None:
        self._receiver.stop()
        self._names.stop()
        if self._owned is not None:
            os.close(self._owned)
        self._owned = None

    def _started(self) -> None:
        if self._owned is None:
            raise Failed("balance", "the data plane has not been started", "Call `start` before")

    def _begin(self, pools: tuple[Pool, ...], routing: Routing) -> None:
        before = feeding.load(self._layout)
        wanted = bootstrap(self._layout, process.open_files())
        adopted = self._fleet.adopt()
        self._receiver.start()
        if adopted:
            self._pools, self._shares, self._addresses = before.pools, before.shares, dict(before.addresses)
            self._change(pools, routing)
            if self._fleet.succeed(wanted):
                self._tally.restarted()
            return
        pools, addresses = self._prepare(pools, before.addresses)
        for pool in pools:
            checks.port_is_free(pool, addresses[pool.host])
        shares = complete(pools, routing, {})
        made = self._documents(pools, shares, addresses)
        self._feed.put(made)
        self._feed.sweep(made)
        self._certificates.sweep(pools)
        self._pools, self._shares, self._addresses = pools, shares, addresses
        self._save()  # before: whoever comes after a brain that is killed here finds what Envoy serves
        try:
            self._fleet.start(wanted)
            self._settling.until_taken("cds", {})
            self._settling.until_taken("lds", {})
            self._settling.until_judged(pools, shares, addresses)
        except BaseException:
            self._fleet.end()
            raise

    # Changing.

    def _prepare(self, pools: tuple[Pool, ...], before: Mapping[str, str]) -> tuple[tuple[Pool, ...], dict[str, str]]:
        """Checks all that can be wrong before Envoy is told, and returns the pools with whole paths, and all addresses."""
        pools = tuple(_whole(pool) for pool in pools)
        checks.watches_fit(pools)
        checks.system_authorities(pools)
        for pool in pools:
            if pool.certificate is not None:
                checks.certificate_pair(pool.name, pool.certificate)
            checks.authority_works(pool)
        lost = self._names.learn([host for p in pools for host in (p.host, *(b.host for b in p.backends))], before)
        for pool in pools:
            for host in (pool.host, *(b.host for b in pool.backends)):
                if host in lost:
                    remedy = "Check the name, and that this machine can look names up"
                    raise UsageError(pool.name, f"the host name {host!r} cannot be resolved", remedy)
        known = self._names.known()
        checks.ports_differ(pools, known)
        for pool in pools:
            checks.backends_differ(pool, known)
        return pools, known

    def _change(self, pools: tuple[Pool, ...], routing: Routing) -> None:
        pools, addresses = self._prepare(pools, self._addresses)
        for pool in pools:
            checks.port_is_free(pool, addresses[pool.host], self._fleet.pid())
        shares = complete(pools, routing, self._shares)
        retired = [*self._retired, *self._retiring(pools)]
        made = self._documents(pools, shares, addresses, retired)
        listeners = made.pop("lds")
        before = self._settling.rejections()
        self._settling.offer()
        undo = self._feed.put(made)
        try:
            self._settling.until_taken("cds", before)
            undo |= self._feed.put({"lds": listeners})
            self._settling.until_taken("lds", before)
            self._settling.until_judged(pools, shares, addresses)
        except TierkeeperError:
            self._feed.restore(undo)
            with suppress(NotNow):
                self._rejected = self._settling.rejections()
            raise
        self._pools, self._shares, self._addresses, self._retired = pools, shares, addresses, retired
        self._rejected = self._settling.rejections()
        with suppress(OSError):  # Envoy has taken it, so that it holds; for a later brain the next change is written with it
            self._save()

    def _retiring(self, pools: tuple[Pool, ...]) -> list[tuple[float, Pool]]:
        """What of the pools as they are must stay until its ports have ended what they began."""
        until = self._clock.monotonic() + limits.DRAIN_SECONDS + _RETIRED_SPARE_SECONDS
        staying = {cluster_name(pool, self._layout) for pool in pools}
        return [(until, pool) for pool in self._pools if cluster_name(pool, self._layout) not in staying]

    def _documents(
        self,
        pools: tuple[Pool, ...],
        shares: Shares,
        addresses: Mapping[str, str],
        retired: Sequence[tuple[float, Pool]] = (),
    ) -> dict[str, list[Document]]:
        made = documents(
            self._layout,
            pools,
            shares,
            addresses,
            system_ca=checks.system_authorities(pools),
            percents=self._percents,
            copies=self._certificates.of(pools),
            broke=self._broke(),
        )
        current = {cluster["name"] for cluster in made["cds"]}
        old = tuple({cluster_name(p, self._layout): p for _, p in retired}.values())
        kept = documents(
            self._layout,
            old,
            complete(old, {}, {**self._shares, **shares}),
            {**self._addresses, **addresses},
            system_ca=checks.system_authorities(old),
            percents={},
            copies={},
        )
        made["cds"] += [cluster for cluster in kept["cds"] if cluster["name"] not in current]
        hosts = {host["name"] for host in made["verdict"][0]["virtual_hosts"]}
        left = [host for host in kept["verdict"][0]["virtual_hosts"] if host["name"] not in hosts]
        made["verdict"][0]["virtual_hosts"] += list({host["name"]: host for host in left}.values())
        return {**{name: kept[name] for name in kept if name not in made and name[:4] in ("eds-", "rds-")}, **made}

    def _traffic(self, pools: tuple[Pool, ...], shares: Shares, addresses: Mapping[str, str]) -> dict[str, list[Document]]:
        if not self._retired:
            return traffic(pools, shares, addresses, self._broke())
        made = self._documents(pools, shares, addresses, self._retired)
        return {name: made[name] for name in ("verdict", *(n for n in made if n[:4] in ("eds-", "rds-")))}

    # Each turn.

    def _revive(self) -> str | None:
        said = self._fleet.revive()
        if said is not None:
            self._tally.restarted()
            self._rejected = {}
        return said

    def _moved(self) -> str | None:
        """Feeds addresses to which names of backends have come to point."""
        known = self._names.known()
        moved = {b.host for p in self._pools for b in p.backends if known.get(b.host) != self._addresses.get(b.host)}
        if not moved:
            return None
        addresses = {**self._addresses, **{host: known[host] for host in moved if host in known}}
        if any(checks.same_place(pool, addresses) for pool in self._pools):
            return None  # two backends would be one to Envoy: the old addresses stay until the names differ
        self._feed.put(self._traffic(self._pools, self._shares, addresses))
        self._addresses = addresses
        self._save()
        return "; ".join(f"{host} is at {addresses[host]} now" for host in sorted(moved))

    def _renewed(self) -> list[str]:
        said, changed = self._certificates.renewed(self._pools)
        if changed:
            made = self._documents(self._pools, self._shares, self._addresses, self._retired)
            self._feed.put({name: made[name] for name in made if name.startswith("sds-")})
            self._certificates.sweep(self._pools)
        return said

    def _refused(self) -> str | None:
        try:
            now = self._settling.rejections()
        except NotNow:
            return None
        grown = sorted(name for name, count in now.items() if count > self._rejected.get(name, 0))
        self._rejected = now
        why = self._settling.why() if grown else None
        if why is None or why == self._fault:
            return None
        return f"Envoy refused what it was fed ({', '.join(grown)}): {why}"

    def _offered(self) -> str | None:
        """Offers again what Envoy refused of what holds, such as a port that somebody had taken while Envoy was away."""
        now = self._clock.monotonic()
        if not self._rejected or now - self._offered_at < limits.OFFER_SECONDS:
            return None
        self._offered_at = now
        with suppress(NotNow):
            before, self._fault = self._fault, self._settling.why() if self._settling.offer() else None
            if before is not None and self._fault is None:
                return "Envoy has taken what it refused before"
        return None

    def _sweep(self) -> None:
        """Takes away what retired pools needed, once their time is over."""
        now = self._clock.monotonic()
        if self._retired and all(until <= now for until, _ in self._retired):
            self._retired = []
            made = self._documents(self._pools, self._shares, self._addresses)
            self._feed.put({"cds": made["cds"], "verdict": made["verdict"]})
            self._feed.sweep(made)
            self._certificates.sweep(self._pools)

    def _adapt(self, seconds: float) -> None:
        percents = adapted(self._percents, self._tally.fresh(), seconds)
        if percents is not None:
            self._percents = percents
            with suppress(OSError):
                self._feed.put({"rtds": [sampling(self._pools, percents)]})

    def _account(self, seconds: float) -> None:
        """Lets pools repeat no more that have repeated too much, and again once they have saved."""
        retries = self._admin.stats(_RETRIES)
        changed = False
        for pool in self._pools:
            if pool.wire == "http":
                count = int(retries.get(f"cluster.{pool_key(pool.name)}.upstream_rq_retry", 0))
                account = self._budgets.setdefault(pool.name, Budget())
                changed |= account.look(self._tally.fresh().get(pool.name, 0), count, seconds)
        if changed:
            with suppress(OSError):
                self._feed.put(self._traffic(self._pools, self._shares, self._addresses))

    def _broke(self) -> set[str]:
        return {name for name, account in self._budgets.items() if not account.open}

    def _save(self) -> None:
        feeding.save(self._layout, feeding.State(self._pools, self._shares, self._addresses))

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            cause = f"cannot be written ({error.strerror or error})"
            raise Failed(str(self._folder), cause, "Give this user a writable folder with room") from error


def _whole(pool: Pool) -> Pool:
    """With absolute paths: Envoy stands in another folder."""
    given = pool.certificate
    certificate = Certificate(str(Path(given.chain).absolute()), str(Path(given.key).absolute())) if given else None
    authority = str(Path(pool.backend_ca).absolute()) if pool.backend_ca else None
    return replace(pool, certificate=certificate, backend_ca=authority)
