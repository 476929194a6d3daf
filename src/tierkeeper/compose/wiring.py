"""What every part of a keeper stands on: settings, links, tiers, keys and the archive, each made when it is first needed."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tierkeeper.compose.hints import Hints
from tierkeeper.compose.stores import open_store, store_bytes
from tierkeeper.config import Settings, folder
from tierkeeper.config.price import in_one_currency
from tierkeeper.crypto.keys import KeyRing
from tierkeeper.kernel.clock import Clock, SystemClock
from tierkeeper.kernel.host import has_lasting_disk
from tierkeeper.kernel.policy import Tier
from tierkeeper.kernel.ports import Progress, Sharing, Stop
from tierkeeper.monitoring import seen, state
from tierkeeper.monitoring.seen import Seen
from tierkeeper.mover.request import Bounds
from tierkeeper.objectstore.port import Store
from tierkeeper.postgres.link import Link
from tierkeeper.security.audit import PostgresAudit
from tierkeeper.tiers import profile
from tierkeeper.tiers.tier import Tier as TierFacts

if TYPE_CHECKING:
    pass


class Wiring:
    """The configured tiers and all that reaches them. Constructing it reaches nothing."""

    def __init__(
        self,
        settings: Settings,
        *,
        clock: Clock,
        progress: Progress,
        stop: Stop,
        environment: Mapping[str, str],
        bounds: Bounds,
        sharing: Sharing | None = None,
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._progress = progress
        self._stop = stop
        self._environment = environment
        self._bounds = bounds
        self._sharing = sharing
        self._policies = settings.policies()
        self._hints = Hints(self._seen, SystemClock())
        self.links = cast(
            "dict[Tier, Link]",
            {name: self._hints.link(name, link) for name, link in settings.links(folder.pins(environment)).items()},
        )
        self._audit = PostgresAudit(self.links["main"])

    @cached_property
    def _tiers(self) -> dict[Tier, TierFacts]:
        quotas, configured = self._settings.quotas_bytes(), self._settings.tiers
        names = {"core": configured.core.profile, "main": configured.main.profile, "archive": None}
        profiles = {tier: _profile(names[tier], tier) for tier in self.links}
        given = {"core": configured.core.price, "main": configured.main.price, "archive": configured.archive.price}
        prices = in_one_currency({tier: given[tier].over(profiles[tier].price) for tier in self.links}, given)
        return {t: TierFacts(t, link, quotas[t], profiles[t], prices[t]) for t, link in self.links.items()}

    @property
    def _config_dir(self) -> Path:
        """Where the archive's key lies."""
        return folder.of_user(self._environment)

    @property
    def _state_dir(self) -> Path | None:
        """Where this machine remembers by itself; None where its disk does not last."""
        return state.folder(self._environment, self.links["core"]) if self._disk_lasts else None

    def _seen(self) -> dict[str, Seen]:
        """What this machine's balancer has seen of the tiers; nothing where none runs."""
        here = self._state_dir
        return {} if here is None else seen.read(here)

    @property
    def _disk_lasts(self) -> bool:
        return has_lasting_disk(self._environment)

    @property
    def _key_present(self) -> bool:
        """Raises UsageError where there is one that is none: told when a run begins, not when the first row is due."""
        return KeyRing.present(self._config_dir, self._environment) and bool(KeyRing.open(self._config_dir, self._environment))

    @cached_property
    def _store(self) -> Store:
        return open_store(self._settings, self._environment, self._clock, self._hints.gate("store"))

    def _store_bytes(self) -> int:
        return store_bytes(self._settings, self._store)


def _profile(name: str | None, tier: Tier) -> profile.Profile:
    return profile.SELF_HOSTED if name is None else profile.named(name, f"tiers.{tier}.profile")
