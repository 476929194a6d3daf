"""The tierkeeper.toml of a demo's tiers: any command works by it alone, and leaves nothing outside of the demo's folder."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from tierkeeper.demo.server import EmbeddedPostgres

READER_SECONDS: Final = 5  # rows rest that long at Main; the question takes less than one where nothing else is at work
_MIRRORED: Final = ("airlines", "airports", "planes", "weather")


def write(folder: Path, core: EmbeddedPostgres, main: EmbeddedPostgres, catalog: EmbeddedPostgres) -> Path:
    """Writes it into `folder`, for this user alone, and returns its path."""

    def tier(server: EmbeddedPostgres, quota: str, url: str = "url") -> dict[str, str]:
        return {url: server.url(), "sslrootcert": str(server.ca_file), "quota": quota}

    content = {
        "home": "home",
        "tiers": {
            "core": tier(core, "40MB"),
            "main": tier(main, "200MB"),
            "archive": {**tier(catalog, "1GB", "catalog"), "store": "store"},
        },
        "tables": [
            {"name": "public.flights", "age": "time_hour", "core": "90 days", "main": "180 days"},
            *({"name": f"public.{name}", "mode": "mirror"} for name in _MIRRORED),
        ],
        "query": {"timeout": f"{READER_SECONDS} seconds"},
    }
    for name in ("store", "home"):
        (folder / name).mkdir(mode=0o700)
    path = folder / "tierkeeper.toml"
    path.touch(mode=0o600)
    path.write_text("\n".join(_lines(content, "")) + "\n", encoding="utf-8")
    return path


def _lines(section: Mapping[str, Any], path: str) -> Iterator[str]:
    """As TOML: what is a value first, then what is a table; a JSON string is a TOML one, too."""
    yield from (f"{key} = {json.dumps(value)}" for key, value in section.items() if isinstance(value, str))
    for key, value in section.items():
        name = f"{path}.{key}".lstrip(".")
        for one in value if isinstance(value, list) else [value] if isinstance(value, dict) else []:
            yield from ("", f"[[{name}]]" if isinstance(value, list) else f"[{name}]", *_lines(one, name))
