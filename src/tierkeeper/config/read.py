"""Finds the configuration and reads it: a flag beats TOML, TOML the environment, the environment `.env`.

Everything it needs is passed in; it reads files and changes nothing. All faults are found in one look.
"""

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import psycopg
from dotenv.parser import parse_stream
from psycopg import conninfo
from pydantic import ValidationError

from tierkeeper.config.base import Section
from tierkeeper.config.faults import Loc, dotted, translate
from tierkeeper.config.model import Settings, Tiers
from tierkeeper.config.secrets import redact
from tierkeeper.config.services import Balance, HomeServer
from tierkeeper.kernel.errors import Faults, TierkeeperError, UsageError
from tierkeeper.postgres.link import Link
from tierkeeper.tiers.profile import SUPABASE_FREE

FILE: Final = "tierkeeper.toml"

ENVIRONMENT: Final[Mapping[str, Loc]] = MappingProxyType(
    {
        "CORE_SUPABASE_URL": ("tiers", "core", "url"),
        "CORE_QUOTA_LIMIT": ("tiers", "core", "quota"),
        "MAIN_SUPABASE_URL": ("tiers", "main", "url"),
        "MAIN_QUOTA_LIMIT": ("tiers", "main", "quota"),
        "ARCHIVE_SUPABASE_URL": ("tiers", "archive", "catalog"),
        "ARCHIVE_PATH": ("tiers", "archive", "store"),
        "HOME_SERVER_URL": (
            "tiers",
            "archive",
            "store",
        ),  # after ARCHIVE_PATH: where both are set, the server is the store
        "HOME_SERVER_TOKEN": ("tiers", "archive", "token"),
        "ARCHIVE_QUOTA_LIMIT": ("tiers", "archive", "quota"),
        "LOAD_BALANCER_ALGORITHM": ("balance", "algorithm"),
        "HEALTH_CHECK_INTERVAL": ("balance", "health_check_interval"),
        "MAX_RETRIES": ("balance", "max_retries"),
    }
)
"""The variables that are read as they stand, and the keys that they speak for."""

_TIER_URLS: Final = ("CORE_SUPABASE_URL", "MAIN_SUPABASE_URL", "ARCHIVE_SUPABASE_URL")
_SYSTEM: Final = "system"  # libpq's word for the CAs of the machine's OpenSSL
_LINKS: Final[Mapping[str, Loc]] = MappingProxyType(
    {
        "core": ("tiers", "core", "url"),
        "main": ("tiers", "main", "url"),
        "archive": ("tiers", "archive", "catalog"),
    }
)


def load(path: Path | None, environ: Mapping[str, str], cwd: Path) -> Settings:
    """The settings from `path`, else TIERKEEPER_CONFIG, else `tierkeeper.toml` in `cwd`, else variables alone.

    Raises Faults (of UsageError) with everything that is wrong, UsageError for a file that cannot be read.
    """
    file, shown = _find(path, environ, cwd)
    base = file.parent if file else cwd
    variables = read_variables(base, environ)
    written = _read_toml(file, shown) if file else {}
    reader = _Reader(shown if file else None, written, variables)
    data = reader.merged(base)
    try:
        settings = Settings.model_validate(data)
    except ValidationError as error:
        for loc, fault in translate(error, reader.place):
            reader.add(loc, fault)
        settings = None
    reader.check_files_and_links(data)
    if reader.faults or settings is None:
        raise Faults([_without_secrets(f, variables) for f in reader.faults])
    return settings.keyed(variables)


def load_home_server(path: Path | None, environ: Mapping[str, str], cwd: Path) -> HomeServer:
    """What the home server serves, its `path` absolute; the tiers may be configured elsewhere. Raises as `load` does."""
    file, shown = _find(path, environ, cwd)
    base = file.parent if file else cwd
    variables = read_variables(base, environ)
    written = _read_toml(file, shown) if file else {}
    reader = _Reader(shown if file else None, {"homeserver": written.get("homeserver", {})}, variables)
    data = reader.followed()
    try:
        section = _HomeServerAlone.model_validate(data).homeserver
    except ValidationError as error:
        for loc, fault in translate(error, reader.place):
            reader.add(loc, fault)
        raise Faults(reader.faults) from None
    if reader.faults:
        raise Faults(reader.faults)
    folder = section.path or variables.get("ARCHIVE_PATH")
    if folder is None:
        remedy = "Set it in the environment or in .env, or write path under [homeserver] in tierkeeper.toml"
        raise UsageError("ARCHIVE_PATH", "it is not set, so there is no folder to serve", remedy)
    return section.model_copy(update={"path": str(base.absolute() / Path(folder).expanduser())})


class _HomeServerAlone(Section):
    homeserver: HomeServer = HomeServer()


def load_balance(path: Path | None, environ: Mapping[str, str], cwd: Path) -> tuple[Balance, Settings | None]:
    """What is balanced, and all settings: None where no tier is configured, for a balancer needs none. Raises as `load` does."""
    file, shown = _find(path, environ, cwd)
    base = file.parent if file else cwd
    variables = read_variables(base, environ)
    written = _read_toml(file, shown) if file else {}
    if "tiers" in written or any(name in variables for name in _TIER_URLS):
        settings = load(path, environ, cwd)
        return settings.balance, settings
    own = {name: value for name, value in variables.items() if ENVIRONMENT.get(name, ("balance",))[0] == "balance"}
    reader = _Reader(shown if file else None, written, own)
    data = reader.merged(base)
    try:
        balance = _BalanceAlone.model_validate(data).balance
    except ValidationError as error:
        for loc, fault in translate(error, reader.place):
            reader.add(loc, fault)
        balance = Balance()
    if reader.faults:
        raise Faults([_without_secrets(f, variables) for f in reader.faults])
    return balance, None


class _BalanceAlone(Settings):
    tiers: Tiers | None = None  # type: ignore[assignment]  # all other sections are as strict as ever


def located(path: Path | None, environ: Mapping[str, str], cwd: Path) -> Path:
    """The file that the configuration is read from, absolute; where there is none, the one that would be. Raises as `load`."""
    file, _ = _find(path, environ, cwd)
    return (file or cwd / FILE).absolute()


def read_variables(base: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` over the `.env` in `base`; an empty variable counts as unset. Raises UsageError for a broken `.env`."""
    file = base / ".env"
    below: dict[str, str] = {}
    if file.is_file():
        try:
            with file.open(encoding="utf-8") as stream:
                for binding in parse_stream(stream):
                    if binding.error:
                        raise UsageError(
                            f".env: line {binding.original.line}",
                            "this is not NAME=value",
                            "Correct the line, or put # before it",
                        )
                    if binding.key is not None:
                        below[binding.key] = binding.value or ""
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(".env", f"it cannot be read ({type(error).__name__})", "Make it a readable UTF-8 file") from None
    return {name: value for name, value in {**below, **environ}.items() if value.strip()}


def _find(path: Path | None, environ: Mapping[str, str], cwd: Path) -> tuple[Path | None, str]:
    """The file and its name for the user."""
    named = path or (Path(environ["TIERKEEPER_CONFIG"]) if environ.get("TIERKEEPER_CONFIG") else None)
    if named is None:
        return (cwd / FILE, FILE) if (cwd / FILE).exists() else (None, FILE)
    file = cwd / named.expanduser()
    if not file.exists():
        place = "--config" if path else "TIERKEEPER_CONFIG"
        raise UsageError(place, f"there is no file {named}", "Name a file that exists, or write one with 'tierkeeper init'")
    return file, str(named)


def _read_toml(file: Path, shown: str) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        cause, _, where = str(error).partition(" (at ")
        line = where.rstrip(")") or "the file"
        raise UsageError(
            f"{shown}: {line}", f"this is not TOML ({cause})", "Correct the line; text needs quotes, a table brackets"
        ) from None
    except UnicodeDecodeError:
        raise UsageError(shown, "the file is not UTF-8 text", "Save it as UTF-8") from None
    except OSError as error:
        raise UsageError(shown, f"the file cannot be read ({error.strerror})", "Make it a readable file") from None


class _Reader:
    """One look at a configuration. Keeps every fault once, at the place where the user wrote what is wrong."""

    def __init__(self, file: str | None, written: dict[str, Any], variables: Mapping[str, str]) -> None:
        self.file = file
        self.written = written
        self.variables = variables
        self.faults: list[TierkeeperError] = []
        self._in_url: set[str] = set()  # tiers whose address names their authority
        self._settled: set[Loc] = set()  # places that have a fault: what follows from it is not told again

    def add(self, loc: Loc, fault: TierkeeperError) -> None:
        if loc not in self._settled:
            self._settled.add(loc)
            self.faults.append(fault)

    def place(self, loc: Loc) -> str:
        """The key in the file, or the variable that speaks for it."""
        names = [name for name, at in ENVIRONMENT.items() if at == loc]
        in_file, value = True, self.written
        for part in loc:
            if isinstance(value, dict) and part in value:
                value = value[str(part)]
            elif isinstance(value, dict):
                in_file = False
                break
        if names and not in_file:
            return next(
                (n for n in reversed(names) if n in self.variables),
                names[0] if self.file is None else self._in_file(loc),
            )
        return self._in_file(loc)

    def _in_file(self, loc: Loc) -> str:
        return f"{self.file or FILE}: {dotted(loc)}"

    def followed(self) -> dict[str, Any]:
        """The file alone, its references followed."""
        return dict(self._follow(self.written, ()))

    def merged(self, base: Path) -> dict[str, Any]:
        """Variables below, the file above, `env:` references followed, paths made absolute from `base`."""
        data: dict[str, Any] = {}
        for name, loc in ENVIRONMENT.items():
            if name in self.variables:
                section = data
                for part in loc[:-1]:
                    section = section.setdefault(str(part), {})
                section[str(loc[-1])] = self.variables[name]
        _lay_over(data, self._follow(self.written, ()))
        if isinstance(home := data.get("home"), str) and home and not home.startswith("env:"):
            data["home"] = str(base.absolute() / Path(home).expanduser())
        tiers = data.get("tiers")
        _guess_profile(tiers)
        for name, tier in tiers.items() if isinstance(tiers, dict) else ():
            if isinstance(tier, dict):
                self._settle_paths(name, tier, base)
        balance = data.get("balance")
        services = balance.get("services") if isinstance(balance, dict) else None
        for service in services if isinstance(services, list) else ():
            for key in ("certificate", "key", "backend_ca"):
                if isinstance(service, dict) and isinstance(text := service.get(key), str) and text:
                    service[key] = str(base.absolute() / Path(text).expanduser())
        return data

    def _settle_paths(self, name: str, tier: dict[str, Any], base: Path) -> None:
        store = tier.get("store")
        if isinstance(store, str) and store == self.variables.get("HOME_SERVER_URL") and "://" not in store:
            loc: Loc = ("tiers", name, "store")
            remedy = "Write https://…, or unset it and set ARCHIVE_PATH to a directory"
            self.add(loc, UsageError("HOME_SERVER_URL", "this is not a URL", remedy))
        if "sslrootcert" not in tier and (ca := _authority_in(tier.get("url", tier.get("catalog")))):
            tier["sslrootcert"] = ca
            self._in_url.add(name)
        for key in ("store", "sslrootcert"):
            text = tier.get(key)
            if isinstance(text, str) and text not in ("", _SYSTEM) and "://" not in text and not text.startswith("env:"):
                tier[key] = str(base.absolute() / Path(text).expanduser())

    def _follow(self, value: Any, loc: Loc) -> Any:
        """`value` with `env:NAME` replaced. A variable that is not set is a fault at its key."""
        if isinstance(value, dict):
            return {k: self._follow(v, (*loc, k)) for k, v in value.items()}
        if isinstance(value, list):
            return [self._follow(v, (*loc, i)) for i, v in enumerate(value)]
        if not isinstance(value, str) or not value.startswith("env:"):
            return value
        name = value.removeprefix("env:").strip()
        if name in self.variables:
            return self.variables[name]
        self.add(
            loc,
            UsageError(self.place(loc), f"the variable {name} is not set", f"Set {name} in the environment or in .env"),
        )
        return value

    def check_files_and_links(self, data: dict[str, Any]) -> None:
        """What the models cannot see: CA files that are not there, addresses that are none, links left open."""
        tiers = data.get("tiers")
        for tier, loc in _LINKS.items():
            section = tiers.get(tier) if isinstance(tiers, dict) else None
            if not isinstance(section, dict):
                continue
            ca, url, insecure = section.get("sslrootcert"), section.get(loc[-1]), section.get("insecure", False)
            ca_loc: Loc = ("tiers", tier, "sslrootcert")
            if isinstance(ca, str) and ca != _SYSTEM and not Path(ca).is_file():
                at, cause = ca_loc, "there is no such file"
                if tier in self._in_url:
                    at, cause = loc, f"its sslrootcert names {ca}, and there is no such file"
                self.add(at, UsageError(self.place(at), cause, "Name the file with the CA's certificate (PEM)"))
            if isinstance(url, str) and loc not in self._settled:
                try:
                    _ = Link(tier, url, ca if isinstance(ca, str) else None, insecure is True).parameters
                except UsageError as error:
                    self.add(loc, UsageError(self.place(loc), error.cause, error.remedy))


def _authority_in(url: object) -> str | None:
    """The file that an address names, which libpq would look for wherever the command is typed."""
    try:
        named = conninfo.conninfo_to_dict(url).get("sslrootcert") if isinstance(url, str) else None
    except psycopg.Error:
        return None  # told where the address is read
    return named if isinstance(named, str) else None


def _guess_profile(tiers: Any) -> None:
    """Core at Supabase is on the free plan unless the user says otherwise: its limits are the ones that hurt."""
    core = tiers.get("core") if isinstance(tiers, dict) else None
    if isinstance(core, dict) and re.search(r"@[^/?#]*\.supabase\.(co|com)\b", str(core.get("url", ""))):
        core.setdefault("profile", SUPABASE_FREE.name)


def _lay_over(below: dict[str, Any], above: dict[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = value


def _without_secrets(error: TierkeeperError, variables: Mapping[str, str]) -> TierkeeperError:
    """A value that was quoted in a fault may be a secret in the wrong place."""
    secret = {name: value for name, value in variables.items() if re.search(r"URL|TOKEN|KEY$|PASSPHRASE", name)}
    return UsageError(error.place, redact(error.cause, secret), error.remedy)
