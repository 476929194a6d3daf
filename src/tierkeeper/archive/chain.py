"""Lines up the manifests that a store holds, as the catalog had them. Pure."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from tierkeeper.archive.model import Manifest


@dataclass(frozen=True)
class LinedUp:
    """SHA-256s of manifests. `chain`: by position; `gaps`: positions whose manifest the store lacks.

    `beside` have no place in the chain: a run was killed before the catalog had them, and a later one, which counts, took it.
    `rivals` have none either, but nothing that counts is in their place. `forks` count, and so does another in their place.
    """

    chain: Mapping[int, str]
    gaps: list[int]
    beside: list[str]
    rivals: list[str]
    forks: list[str]


def line_up(manifests: Mapping[str, Manifest], counting: Collection[str]) -> LinedUp:
    """The chain in `manifests` (by their SHA-256). `counting`: those whose rows certainly are the archive's.

    Each names the one before it, so that those that count tell what came before them. Of those that come after the last that
    counts, none does: the longest line is taken, for the next manifest has to go on from some position.
    """
    chain: dict[int, str] = {}
    forks = []
    for top in sorted(counting, key=lambda s: manifests[s].position, reverse=True):
        at: str | None = top
        if chain.get(manifests[top].position, top) != top:
            forks.append(top)
            continue
        while at is not None and at in manifests and manifests[at].position not in chain:
            chain[manifests[at].position] = at
            at = manifests[at].previous
    counts_to = max(chain, default=0)
    after: dict[str | None, list[str]] = {}
    for sha256, manifest in manifests.items():
        after.setdefault(manifest.previous, []).append(sha256)
    for sha256 in _longest(after, manifests, chain.get(counts_to)):
        chain[manifests[sha256].position] = sha256
    placed = {*chain.values(), *forks}
    beside = [s for s, m in manifests.items() if s not in placed and m.position <= counts_to]
    rivals = [s for s, m in manifests.items() if s not in placed and m.position > counts_to]
    gaps = [p for p in range(1, max(chain, default=0)) if p not in chain]
    return LinedUp(dict(sorted(chain.items())), gaps, beside, rivals, forks)


def _longest(after: Mapping[str | None, list[str]], manifests: Mapping[str, Manifest], start: str | None) -> list[str]:
    """The longest line of manifests after `start`, of equal ones the one that ends with the newest."""
    lines, best = [[s] for s in after.get(start, ())], list[str]()
    while lines:
        best = max(lines, key=lambda line: manifests[line[-1]].created_at)
        lines = [[*line, s] for line in lines for s in after.get(line[-1], ())]
    return best
