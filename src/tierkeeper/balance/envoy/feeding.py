"""Feeds Envoy its files: each in a folder of its own, written beside it and renamed into it, so that it is seen whole or not."""

import json
import shutil
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tierkeeper.balance.envoy.documents import Documents, Layout, discovery
from tierkeeper.balance.model import Backend, Certificate, Pool, Share, Takes


class Feed:
    """What Envoy reads. Methods raise OSError."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._last: dict[str, str] = {}

    def put(self, documents: Documents) -> dict[str, str | None]:
        """Writes what changed, in the order given, and returns what those files held before (None for nothing)."""
        before: dict[str, str | None] = {}
        try:
            for name, resources in documents.items():
                text = json.dumps(discovery(resources))
                if (now := self._now(name)) != text:
                    before[name] = now
                    self._write(name, text)
        except OSError:
            self.restore(before)
            raise
        return before

    def restore(self, before: Mapping[str, str | None]) -> None:
        """Puts back what `put` returned. A file that was new stays: nothing that was before refers to it."""
        for name, text in before.items():
            if text is not None:
                self._write(name, text)

    def again(self, name: str) -> None:
        """Writes the file as it is, so that Envoy reads it once more."""
        if (text := self._now(name)) is not None:
            self._write(name, text)

    def version(self, name: str) -> str:
        text = self._now(name)
        return str(json.loads(text)["version_info"]) if text is not None else ""

    def sweep(self, kept: Collection[str]) -> None:
        """Removes the files of pools that are gone."""
        for folder in Path(self._layout.fed).iterdir():
            if folder.is_dir() and folder.name not in kept:
                self._last.pop(folder.name, None)
                shutil.rmtree(folder, ignore_errors=True)

    def _now(self, name: str) -> str | None:
        if name not in self._last:
            try:
                self._last[name] = Path(self._layout.file(name)).read_text()
            except FileNotFoundError:
                return None
        return self._last[name]

    def _write(self, name: str, text: str) -> None:
        path = Path(self._layout.file(name))
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = Path(self._layout.fed) / f".{name}"
        self._last.pop(name, None)
        beside.write_text(text)
        beside.rename(path)
        self._last[name] = text


@dataclass(frozen=True)
class State:
    """What a later brain has to know of the plane that it takes over."""

    pools: tuple[Pool, ...] = ()
    shares: Mapping[str, Mapping[str, Share]] = field(default_factory=dict)
    addresses: Mapping[str, str] = field(default_factory=dict)


def save(layout: Layout, state: State) -> None:
    """Raises OSError."""
    beside = Path(f"{layout.routing}.new")
    beside.write_text(json.dumps(asdict(state)))
    beside.rename(layout.routing)


def load(layout: Layout) -> State:
    """What was saved; nothing where there is none, or where another version wrote it otherwise."""
    try:
        told = json.loads(Path(layout.routing).read_text())
        return State(
            tuple(_pool(p) for p in told["pools"]),
            {
                pool: {name: Share(Takes(s["takes"]), int(s["weight"])) for name, s in shares.items()}
                for pool, shares in told["shares"].items()
            },
            dict(told["addresses"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return State()


def _pool(told: Mapping[str, Any]) -> Pool:
    certificate = told["certificate"]
    return Pool(
        **{
            **told,
            "backends": tuple(Backend(**b) for b in told["backends"]),
            "certificate": Certificate(**certificate) if certificate else None,
        }
    )
