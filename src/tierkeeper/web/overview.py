"""The page of the tiers as a document: it is whole without a script, and needs nothing from anywhere else. Pure."""

import base64
import hashlib
from html import escape
from importlib.resources import files
from typing import Final
from urllib.parse import quote

from tierkeeper.kernel.results import BoardResult
from tierkeeper.web import sections
from tierkeeper.web.sections import instant
from tierkeeper.web.verdict import judge, needs

_STYLE: Final = files("tierkeeper.web").joinpath("overview.css").read_text(encoding="utf-8")
_SCRIPT: Final = files("tierkeeper.web").joinpath("overview.js").read_text(encoding="utf-8")
_SIGNS: Final = {"good": "\N{CHECK MARK}", "warn": "!", "bad": "\N{MULTIPLICATION X}"}
_ICON: Final = "data:image/svg+xml," + quote(
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16" fill="#3a74d8"><rect y="1" width="16" height="3.5"/>'
    '<rect y="6.2" width="16" height="3.5" opacity=".7"/><rect y="11.4" width="16" height="3.5" opacity=".45"/></svg>'
)


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


HEADERS: Final = {
    "Content-Security-Policy": "; ".join((
        "default-src 'none'", f"style-src {_hash(_STYLE)}", f"script-src {_hash(_SCRIPT)}", "connect-src 'self'", "img-src data:",
        "frame-ancestors 'none'", "base-uri 'none'", "form-action 'none'",
    )),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}  # fmt: skip
"""Of every answer: no script and no style but these two, no other site, nothing kept."""


def page(board: BoardResult) -> str:
    """The whole document."""
    seconds = max(2, round(board.fresh_seconds))
    verdict = judge(board)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<noscript><meta http-equiv="refresh" content="{seconds}"></noscript>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<title>{_SIGNS[verdict.level]} tierkeeper</title><link rel="icon" href="{_ICON}">'
        f'<style>{_STYLE}</style></head><body data-seconds="{seconds}">'
        f'<header><h1>tierkeeper</h1><p id="asof" class="soft">as of {instant(board.at)} UTC</p>'
        '<p id="live" class="soft"></p></header>'
        f'<p id="stale" class="banner" role="alert" hidden></p><main>{_main(board)}</main>'
        "<footer>Sizes are decimal, as quotas are sold (1 MB = 1,000,000 bytes). Rows marked ~ are the server's estimate. "
        "All times are UTC. This page changes nothing; commands do.</footer>"
        f"<script>{_SCRIPT}</script></body></html>"
    )


def _main(board: BoardResult) -> str:
    old = ""
    if board.old:
        old = f'<p class="banner" role="alert">Old figures: the tiers have not answered since {instant(board.at)} UTC.</p>'
    parts = (sections.tiers, sections.tables, sections.moves, sections.segments, sections.jobs, sections.audit)
    return old + _verdict(board) + _needs(board) + "".join(part(board) for part in parts)


def _verdict(board: BoardResult) -> str:
    verdict = judge(board)
    lines = "".join(
        f'<li><span class="mark {level}">{_SIGNS[level]}</span><span>{escape(text)}</span></li>'
        for level, text in verdict.evidence
    )
    return f'<section class="verdict {verdict.level}"><h2>{escape(verdict.headline)}</h2><ul>{lines}</ul></section>'


def _needs(board: BoardResult) -> str:
    found = needs(board)
    lines = "".join(
        f'<div class="need {n.level}"><b>{escape(n.place)}</b>: {escape(n.cause)}'
        + (f'<span class="remedy">{escape(n.remedy)}</span>' if n.remedy else "")
        + "</div>"
        for n in found
    )
    return f'<section aria-label="What wants a person">{lines}</section>' if found else ""
