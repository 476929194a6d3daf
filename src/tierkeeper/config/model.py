"""What may stand in `tierkeeper.toml`, as closed and frozen models; the reference is generated from them.

Pure: no environment, no file, no connection. Each field's description is what the user reads about it.
"""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Literal, Self

from pydantic import Field, PrivateAttr, SecretStr, field_validator, model_validator

from tierkeeper.config.base import Finding, Section, refuse
from tierkeeper.config.fields import ProfileName, Share, Size, Span, Table, only_once
from tierkeeper.config.price import TierPrice, refuse_mixed
from tierkeeper.config.services import Balance, Dashboard, HomeServer
from tierkeeper.config.watching import Alerts, Schedule
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.units import Age
from tierkeeper.postgres.link import Link

_NOT_YOURS: Final = ("tierkeeper", "tierkeeper_jobs", "information_schema")
_LEAP_YEAR: Final = datetime(2000, 12, 31, tzinfo=UTC)  # "1 year" and "365 days" are compared from here


class PostgresTier(Section):
    """One Postgres database. I6: its peer is verified unless it is loopback or `insecure`."""

    url: SecretStr = Field(description="postgresql://user:password@host:5432/database")
    quota_bytes: Size = Field(alias="quota", description='how much may lie there, such as "500MB" (10^6) or "10GiB" (2^30)')
    profile: ProfileName | None = Field(
        default=None,
        description="facts of the provider (`supabase-free`, `self-hosted`); left out, Core at Supabase is `supabase-free`",
    )
    sslrootcert: str | None = Field(
        default=None,
        description="file with the CA that signed the server's certificate; left out: the one that `setup` has pinned, "
        "else the system's CAs",
    )
    insecure: bool = Field(default=False, description="allow a link that is not encrypted or whose peer is not verified")
    price: TierPrice = TierPrice()
    keep_awake: bool = Field(
        default=True, description="read a row daily where the profile's provider pauses a project after quiet days"
    )


class CoreTier(PostgresTier):
    """`[tiers.core]`: the small hosted database with the active rows."""

    quota_bytes: Size = Field(
        default=500 * 10**6,
        alias="quota",
        description='how much may lie there, such as "500MB" (10^6) or "1GiB" (2^30)',
    )


class MainTier(PostgresTier):
    """`[tiers.main]`: your own database with the history."""

    quota_bytes: Size = Field(default=10 * 10**9, alias="quota", description='how much may lie there, such as "10GB"')


class ArchiveTier(Section):
    """`[tiers.archive]`: the catalog (a Postgres database) and the store (the encrypted files)."""

    catalog: SecretStr = Field(description="the catalog's database: postgresql://user:password@host:5432/database")
    store: str = Field(
        repr=False,
        description="the home server's enrolment string (https://…), a bucket (s3://…), or the directory of the encrypted files; "
        "a relative one begins where tierkeeper.toml lies",
    )
    token: SecretStr | None = Field(default=None, description="the home server's token")
    quota_bytes: Size = Field(default=100 * 10**9, alias="quota", description='how much may lie in the store, such as "100GB"')
    sslrootcert: str | None = Field(
        default=None,
        description="file with the CA that signed the catalog server's certificate; left out: the one that `setup` has pinned, "
        "else the system's CAs",
    )
    insecure: bool = Field(default=False, description="allow a link that is not encrypted or whose peer is not verified")
    price: TierPrice = TierPrice()


class Tiers(Section):
    """`[tiers]`: Core, Main and Archive."""

    core: CoreTier
    main: MainTier
    archive: ArchiveTier

    @model_validator(mode="after")
    def _have_one_currency(self) -> Self:
        refuse_mixed({"core": self.core.price, "main": self.main.price, "archive": self.archive.price})
        return self


class TableEntry(Section):
    """One `[[tables]]` entry: which rows leave which tier, and when."""

    name: Table = Field(description='as SQL names it: "public.flights", "\\"Odd Schema\\".\\"My Table\\""')
    mode: Literal["move", "mirror"] = Field(
        default="move", description='"mirror": a reference table, kept whole in Core and in step below'
    )
    age: str | None = Field(
        default=None,
        min_length=1,
        description="the column that says how old a row is; left out, rows leave with those that they refer to by a foreign key",
    )
    core: Span | None = Field(default=None, description='rows older than this leave Core, such as "30 days"; left out, they stay')
    main: Span | None = Field(default=None, description="rows older than this leave Main for the archive; left out, they stay")
    core_min: Span | None = Field(
        default=None, description="rows younger than this stay in Core, however full it is; left out, `quota` may move any early"
    )
    main_min: Span | None = Field(default=None, description="the same for Main")
    archive: Span | None = Field(
        default=None,
        description="segments whose youngest row is older than this are removed from the archive, for good; left out, they stay",
    )
    drop_partitions: bool = Field(
        default=False,
        description="`quota` drops empty partitions (ranges of the age) that are older than `core` in Core, than `main` in Main;"
        " a row that comes later then finds none",
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        found = []
        if self.name.schema in _NOT_YOURS or self.name.schema.startswith("pg_"):
            found.append(Finding("name", f"{self.name} is no table of yours", "Name a table of the application"))
        if self.mode == "move" and self.age is None and (self.core or self.main or self.archive or self.drop_partitions):
            found.append(
                Finding(
                    "age",
                    "core, main, archive and drop_partitions need a column that says how old a row is",
                    'Write age = "created_at", or take them out: then its rows leave with those that they refer to',
                )
            )
        if self.mode == "mirror" and (self.core or self.main or self.archive):
            found.append(
                Finding(
                    "mode",
                    "a mirrored table stays whole in Core, so no age can apply",
                    "Take core, main and archive out, or mode",
                )
            )
        if self.mode == "mirror" and self.drop_partitions:
            found.append(
                Finding("drop_partitions", "no row of a mirrored table leaves Core", "Take drop_partitions out, or mode")
            )
        if self.core and self.main and self.main.before(_LEAP_YEAR) > self.core.before(_LEAP_YEAR):
            found.append(
                Finding(
                    "main",
                    f"rows would leave Main after {self.main.text}, before they leave Core",
                    f"Write at least {self.core.text!r}",
                )
            )
        found += self._minimums()
        if self.archive and self.main and self.archive.before(_LEAP_YEAR) > self.main.before(_LEAP_YEAR):
            cause = f"rows would be removed after {self.archive.text}, before they leave Main"
            found.append(Finding("archive", cause, f"Write more than {self.main.text!r}"))
        if found:
            raise refuse(*found)
        return self

    def _minimums(self) -> list[Finding]:
        """What is wrong with the ages that rows have at least before they leave early."""
        found = []
        for key, least, limit in (("core_min", self.core_min, self.core), ("main_min", self.main_min, self.main)):
            if least is not None and limit is None:
                found.append(Finding(key, "by its entry no row leaves the tier, so that none can leave early", "Take it out"))
            elif least is not None and limit is not None and least.before(_LEAP_YEAR) < limit.before(_LEAP_YEAR):
                cause = f"rows would have to stay until they are {least.text} old, and leave at {limit.text}"
                found.append(Finding(key, cause, f"Write at most {limit.text!r}"))
        return found


class Query(Section):
    """`[query]`: bounds for readers."""

    timeout: Span = Field(
        default=Age.parse("5 minutes", "query.timeout"),
        description="the longest reader; a row rests in a tier at least so long before it moves on",
    )

    remember_ages: bool = Field(
        default=True,
        description="`query` keeps on Main how often rows of which ages were asked for (table, day, age in days; no value, no"
        " statement), of which `quota --optimise` makes its proposal",
    )

    @field_validator("timeout")
    @classmethod
    def _is_a_time(cls, timeout: Age) -> Age:
        if timeout.seconds <= 0:
            raise refuse(Finding("", "a time-out of nothing would end every reader", 'Write a time such as "5 minutes"'))
        return timeout


class Quotas(Section):
    """`[quotas]`: when the quota manager begins and ends to move rows earlier than their age asks."""

    start_at: Share = Field(default=0.85, description="share of the quota at which it begins")
    stop_at: Share = Field(default=0.70, description="share of the quota at which it ends")
    reads_in_core: Share = Field(
        default=0.95, description="share of the reads that `quota --optimise` keeps in Core, by the ages that were asked for"
    )
    allow_rewrite: bool = Field(
        default=False,
        description="where nothing gentler gives space back: VACUUM FULL, which locks a table for its time, and"
        " scratch space of up to twice the quota",
    )

    @model_validator(mode="after")
    def _leaves_a_gap(self) -> Self:
        if self.start_at <= self.stop_at:
            raise refuse(
                Finding("stop_at", "it would stop before it starts", "Write a stop_at below start_at, such as 85% and 70%")
            )
        return self


class Settings(Section):
    """A valid configuration: no secret in its repr, every link past the checks that need no connection."""

    home: str | None = Field(
        default=None,
        min_length=1,
        description="folder of the archive's key and of what this machine remembers; left out, the user's own (XDG)",
    )
    tiers: Tiers
    tables: tuple[TableEntry, ...] = ()
    query: Query = Query()
    quotas: Quotas = Quotas()
    schedule: Schedule = Schedule()
    alerts: Alerts = Alerts()
    balance: Balance = Balance()
    dashboard: Dashboard = Dashboard()
    homeserver: HomeServer = HomeServer()
    _key: Mapping[str, str] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _has_ports_of_its_own(self) -> Self:
        services = {a for s in self.balance.services for a in (s.listen, s.listen_reads)}
        if self.dashboard.listen is not None and self.dashboard.listen in {*services, self.balance.metrics}:
            raise refuse(Finding("dashboard.listen", "something of [balance] listens there", "Name another port"))
        return self

    @field_validator("tables")
    @classmethod
    def _are_distinct(cls, tables: tuple[TableEntry, ...]) -> tuple[TableEntry, ...]:
        only_once([str(t.name) for t in tables], "name")
        return tables

    def keyed(self, variables: Mapping[str, str]) -> Self:
        """With those of `variables` that give the archive's key."""
        self._key = {name: variables[name] for name in ("TIERKEEPER_KEY", "TIERKEEPER_PASSPHRASE") if name in variables}
        return self

    def environment(self, given: Mapping[str, str]) -> Mapping[str, str]:
        """`given` with the archive's key and its passphrase, where these are configured, and with the folders that `home` is."""
        homes = {} if self.home is None else {"XDG_CONFIG_HOME": self.home, "XDG_STATE_HOME": self.home}
        key = {name: value for name, value in self._key.items() if not given.get(name, "").strip()}
        return {**given, **key, **homes}

    def links(self, pinned: Callable[[Link], Link]) -> dict[str, Link]:
        """How `core`, `main` and `archive` (its catalog) are reached. `pinned`: `folder.pins`, and raises what that does."""
        core, main, archive = self.tiers.core, self.tiers.main, self.tiers.archive
        links = (
            Link("core", core.url.get_secret_value(), core.sslrootcert, core.insecure),
            Link("main", main.url.get_secret_value(), main.sslrootcert, main.insecure),
            Link("archive", archive.catalog.get_secret_value(), archive.sslrootcert, archive.insecure),
        )
        return {link.tier: pinned(link) for link in links}

    def quotas_bytes(self) -> dict[str, int]:
        """Each tier's quota."""
        return {
            "core": self.tiers.core.quota_bytes,
            "main": self.tiers.main.quota_bytes,
            "archive": self.tiers.archive.quota_bytes,
        }

    def policies(self) -> tuple[TablePolicy, ...]:
        """What is asked of each table, in the order of the file."""
        return tuple(
            TablePolicy(t.name, t.mode, t.age, t.core, t.main, t.drop_partitions, t.archive, t.core_min, t.main_min)
            for t in self.tables
        )

    @property
    def store_path(self) -> Path | None:
        """The store's directory; None where it is a server or a bucket."""
        return None if "://" in self.tiers.archive.store else Path(self.tiers.archive.store)
