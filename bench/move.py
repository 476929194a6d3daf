"""The verified, crash-safe move with its delete, against what a user would take instead, on a link with or without delay."""

import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial

from bench.common import Bench, Figures, Options, Ran, bench, connection, in_turn, timed
from bench.peers import PEERS, Peer
from bench.proxy import proxy

ALL = "all"


def run(options: Options) -> Figures:
    """Rows per second, the process of the command line included on both sides.

    Several peers: the first one's figures are the document's own, and all of them are in its `peers`.
    """
    peers = PEERS if options.peer == ALL else {options.peer: PEERS[options.peer]}
    for peer in peers.values():
        peer.require()
    others = {name: Figures("move", "rows/s", peer.shown) for name, peer in peers.items()}
    figures = next(iter(others.values()))
    with ExitStack() as stack:
        b = stack.enter_context(bench(options.postgres, options.table))
        if options.delay_ms:
            b.proxy = stack.enter_context(proxy(b.core.port, options.delay_ms))
        with connection(b.core) as core:
            b.table.fill(core, options.rows)
        b.configure()
        sides: list[Callable[[], object]] = [partial(_ours, b, options.rows, list(others.values()))]
        sides += [partial(_peer, b, options.rows, peer, others[name]) for name, peer in peers.items()]
        in_turn(options.runs, *sides)
    if options.peer == ALL:
        shown = ("peer", "ratio", "peer_name")
        figures.more["peers"] = {n: {k: v for k, v in f.document().items() if k in shown} for n, f in others.items()}
    if options.delay_ms:
        figures.more["delay_ms"] = options.delay_ms
    return figures


def scale(options: Options) -> Figures:
    """Whether a row costs the same however many there are: the largest size beside the smallest, both of them ours."""
    sizes = sorted(options.sizes)
    smallest, largest = sizes[0], sizes[-1]
    figures = Figures("move-scale", "rows/s", f"ours with {smallest:,} rows, beside {largest:,}")
    found: dict[int, Figures] = {rows: Figures("move-scale", "rows/s", "") for rows in sizes}
    inner: dict[int, list[float]] = {rows: [] for rows in sizes}

    def one(b: Bench, rows: int) -> None:
        ran = _ours(b, rows, [found[rows]])
        inner[rows].append(float(json.loads(ran.output)["seconds"]))

    with bench(options.postgres, options.table) as b:
        with connection(b.core) as core:
            b.table.fill(core, smallest)
        b.configure()
        in_turn(options.runs, *(partial(one, b, rows) for rows in sizes))
    figures.ours_runs, figures.peer_runs = found[largest].ours_runs, found[smallest].ours_runs
    figures.peaks_mb = [peak for f in found.values() for peak in f.peaks_mb]
    figures.more["sizes"] = [
        {
            "rows": rows,
            "us_per_row": round(1e6 / found[rows].ours, 2),
            "us_per_row_without_start": round(1e6 * sorted(inner[rows])[len(inner[rows]) // 2] / rows, 2),
            "peak_mb": round(found[rows].peak_mb, 1),
        }
        for rows in sizes
    ]
    return figures


def _ours(b: Bench, rows: int, figures: Sequence[Figures]) -> Ran:
    hop = ["--from", "core", "--to", "main", "--before", "2300-01-01"]
    command = ["tierkeeper", "move", "public.events", *hop, "--config", str(b.config), "--json"]
    ran = _measured(b, rows, partial(timed, command, b.environment), figures, "ours")
    for one in figures:
        one.ours_runs.append(rows / ran.seconds)
        one.peaks_mb.append(ran.peak_mb)
    return ran


def _peer(b: Bench, rows: int, peer: Peer, figures: Figures) -> None:
    ran = _measured(b, rows, partial(timed, peer.command(b), b.environment), [figures], "peer")
    figures.peer_runs.append(rows / ran.seconds)


def _measured(b: Bench, rows: int, act: Callable[[], Ran], figures: Sequence[Figures], side: str) -> Ran:
    """One run over a fresh table, counted; with a proxy also how much of one core that took meanwhile."""
    _refill(b, rows)
    before = b.proxy.cpu_seconds if b.proxy else 0.0
    ran = act()
    if b.proxy:
        for one in figures:
            one.more[f"proxy_cpu_{side}"] = round((b.proxy.cpu_seconds - before) / ran.seconds, 3)
    _count(b, rows)
    return ran


def _refill(b: Bench, rows: int) -> None:
    with connection(b.core) as core, connection(b.main) as main:
        b.table.fill(core, rows)
        main.execute("TRUNCATE tierkeeper.ledger")
        main.execute("TRUNCATE public.events")
        core.execute("TRUNCATE tierkeeper.marker")


def _count(b: Bench, rows: int) -> None:
    """Both sides must have done the whole work, or the figure means nothing."""
    with connection(b.core) as core, connection(b.main) as main:
        left = core.execute("SELECT count(*) FROM public.events").fetchone()
        there = main.execute("SELECT count(*) FROM public.events").fetchone()
    if (left, there) != ((0,), (rows,)):
        raise RuntimeError(f"moved wrong: {left} left, {there} there, {rows} wanted")
