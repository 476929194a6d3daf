"""What every document for Envoy is made of, and where its files lie. Pure: paths are text here."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tierkeeper.balance.model import Pool

Document = dict[str, Any]
Documents = Mapping[str, Sequence[Document]]
"""The resources of each file, by the file's name: "lds", "cds", "rtds", "verdict", "eds-KEY", "rds-KEY", "sds-KEY"."""

# Sockets by name alone, as Envoy knows them: it stands in the folder, whose path may be longer than the kernel takes for one.
ADMIN: Final = "admin.sock"
VERDICT: Final = "verdict.sock"
SAMPLES: Final = "brain.sock"
HOT: Final = "hot"


@dataclass(frozen=True)
class Layout:
    """Where everything of one plane lies, below its state folder."""

    folder: str

    @property
    def bootstrap(self) -> str:
        return f"{self.folder}/bootstrap.json"

    @property
    def admin(self) -> str:
        return f"{self.folder}/{ADMIN}"

    @property
    def verdict(self) -> str:
        return f"{self.folder}/{VERDICT}"

    @property
    def samples(self) -> str:
        return f"{self.folder}/{SAMPLES}"

    @property
    def log(self) -> str:
        return f"{self.folder}/envoy.log"

    @property
    def process(self) -> str:
        return f"{self.folder}/envoy.pid"

    @property
    def routing(self) -> str:
        return f"{self.folder}/routing.json"

    @property
    def lock(self) -> str:
        return f"{self.folder}/lock"

    @property
    def certificates(self) -> str:
        return f"{self.folder}/certificates"

    @property
    def fed(self) -> str:
        return f"{self.folder}/xds"

    @property
    def base_id(self) -> int:
        """The number of its shared memory: the same for the same folder, so that a crash leaves nothing behind for good."""
        return int.from_bytes(hashlib.sha256(self.folder.encode()).digest()[:4]) % 400_000_000

    def file(self, name: str) -> str:
        return f"{self.fed}/{name}/now.json"


def source(layout: Layout, name: str) -> Document:
    """Where Envoy reads the file `name` from. It looks at what is renamed into the folder; edits in place it does not see."""
    return {
        "path_config_source": {"path": layout.file(name), "watched_directory": {"path": f"{layout.fed}/{name}"}},
        "resource_api_version": "V3",
    }


def typed(kind: str, **fields: object) -> Document:
    return {"@type": f"type.googleapis.com/{kind}", **fields}


def named(name: str, kind: str, **fields: object) -> Document:
    return {"name": name, "typed_config": typed(kind, **fields)}


def seconds(value: float) -> str:
    """As protobuf writes a duration."""
    return f"{value:.6f}".rstrip("0").rstrip(".") + "s"


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def pool_key(pool: str) -> str:
    """A pool's name in Envoy: names of users may have dots and lengths that its statistics do not take."""
    return f"p{digest(pool)}"


def backend_key(pool: str, backend: str) -> str:
    return f"b{digest([pool, backend])}"


def listener_name(pool: Pool, address: str) -> str:
    """With its address: a port that moves is a new port, and the old one ends what it began."""
    return f"{pool_key(pool.name)}|{address}|{pool.port}"


def discovery(resources: Sequence[Document]) -> Document:
    """The file's content. Its version is that of its content, so that what Envoy took can be told from what it refused."""
    return {"version_info": digest(resources), "resources": list(resources)}


def socket_address(host: str, port: int) -> Document:
    return {"socket_address": {"address": host, "port_value": port}}
