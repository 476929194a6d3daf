"""The page for a person: services, backends, state and why. Pure; it changes nothing, and needs nothing from anywhere else."""

from collections.abc import Iterator
from html import escape
from typing import Final

from tierkeeper.kernel.results import BalanceBackend, BalanceService, BalanceStatusResult

REFRESH_SECONDS: Final = 2
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_STYLE: Final = """
:root{color-scheme:light dark;font:15px/1.5 system-ui,sans-serif}body{max-width:75rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.3rem}h2{font-size:1.1rem;margin:2rem 0 .2rem}p{margin:.2rem 0 .8rem;opacity:.8}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .9rem .35rem 0;border-bottom:1px solid #8884;
vertical-align:top}th{font-weight:600;opacity:.7}.n{text-align:right;font-variant-numeric:tabular-nums}
.in{color:#2a8a3e}.out{color:#d0342c;font-weight:600}.drained,.unknown{color:#b07a00}
.bar{display:inline-block;width:5rem;height:.55rem;background:#8883;margin-right:.5rem}
.bar i{display:block;height:100%;background:#3b7dd8}.note{color:#d0342c}
"""


def page(status: BalanceStatusResult) -> str:
    """The whole document."""
    at = f"{status.at:%Y-%m-%d %H:%M:%S} UTC" if status.at is not None else ""
    plane = ", ".join(f"{escape(str(k))} {escape(str(v))}" for k, v in status.plane.items())
    body = "".join(_service(s) for s in status.services) or "<p>No service is balanced.</p>"
    body += _tiers(status)
    notes = "".join(f'<p class="note">{escape(note)}</p>' for note in status.notes)
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta http-equiv="refresh" content="{REFRESH_SECONDS}">'
        f'<meta name="viewport" content="width=device-width"><title>tierkeeper balance</title><style>{_STYLE}</style></head>'
        f"<body><h1>tierkeeper balance</h1><p>{escape(at)} &middot; {plane}</p>{notes}{body}</body></html>"
    )


def _service(service: BalanceService) -> str:
    about = f"{service.protocol} at {service.listen}"
    if service.listen_reads is not None:
        about += f", reads at {service.listen_reads}"
    about += f", {service.algorithm}"
    if service.why is not None:
        about += f". {service.primary or 'Nobody'} takes writes: {service.why}"
    head = "".join(
        f"<th>{name}</th>" for name in ("Backend", "State", "Share", "Weight", "Latency", "Requests", "Errors", "Since", "Why")
    )
    rows = "".join(_row(service, b) for b in service.backends)
    return f"<h2>{escape(service.name)}</h2><p>{escape(about)}</p><table><tr>{head}</tr>{rows}</table>"


def _tiers(status: BalanceStatusResult) -> str:
    head = "".join(f"<th>{name}</th>" for name in ("Tier", "State", "Since", "Why"))
    rows = "".join(
        f'<tr><td>{escape(t.name)}</td><td class="{_known(t.state)}">{escape(t.state)}</td>'
        f"<td>{t.since:%Y-%m-%d %H:%M:%S}</td><td>{escape(t.why)}</td></tr>"
        for t in status.tiers
    )
    return f"<h2>Tiers</h2><table><tr>{head}</tr>{rows}</table>" if rows else ""


def _row(service: BalanceService, backend: BalanceBackend) -> str:
    state = backend.state if backend.role is None else f"{backend.state}, {backend.role}"
    why = backend.why
    if backend.again_at is not None:
        why += f" (tried again at {backend.again_at:%H:%M:%S})"
    latency = "" if backend.latency_seconds is None else f"{backend.latency_seconds * 1000:.1f} ms"
    cells = [
        f"<td>{escape(backend.name)}</td>",
        f'<td class="{_known(backend.state)}">{escape(state)}</td>',
        f"<td>{'<br>'.join(_ports(service, backend))}</td>",
        f'<td class="n">{"<br>".join(f"{p.weight:,}" for p in backend.ports.values())}</td>',
        f'<td class="n">{latency}</td>',
        f'<td class="n">{backend.requests:,}</td>',
        f'<td class="n">{backend.errors:,}</td>',
        f"<td>{backend.since:%Y-%m-%d %H:%M:%S}</td>",
        f"<td>{escape(why)}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _known(state: str) -> str:
    """The class of a state, whatever it says."""
    return state if state in ("in", "out", "drained") else "unknown"


def _ports(service: BalanceService, backend: BalanceBackend) -> Iterator[str]:
    for name, port in backend.ports.items():
        words = "reads" if name != service.name else "writes" if service.protocol == "postgres" else ""
        share = max(0.0, min(1.0, port.share))
        yield f'<span class="bar"><i style="width:{share:.0%}"></i></span>{share:.1%} {words}'
