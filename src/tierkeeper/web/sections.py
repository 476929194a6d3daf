"""The parts of the page of the tiers. Pure: what a database or a configuration says comes out as text, never as markup."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from typing import Final

from tierkeeper.kernel.results import BoardResult, BoardTable, CostResult, ForecastResult, TierStatus
from tierkeeper.kernel.units import format_bytes

_HIGH: Final = 0.7  # of a quota, as the command line colours it
_FULL: Final = 0.85
_LEAST: Final = 0.01  # below it a share is told to a tenth of a percent
_SOON_DAYS: Final = 7
_TABLES: Final = 100  # on the page: more make it slow to load and no easier to read
_NONE: Final = "\N{EN DASH}"
_AWAY: Final = "Main, which knows, does not answer."
_TONES: Final = {
    "verified": "good", "done": "good", "sealed": "good", "failed": "bad", "open": "warn", "copied": "warn", "unsure": "bad",
}  # fmt: skip
_SHOWN_STATES: Final = {"open": "under way or cut off", "copied": "being moved"}


def instant(moment: datetime) -> str:
    """To the second, for a reader; the whole of it for a program."""
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M:%S}</time>'


def tiers(board: BoardResult) -> str:
    """A card for each tier: how full, when full, what it costs, how it is."""
    cards = "".join(_card(name, tier, board) for name, tier in board.tiers.items())
    return f'<section class="cards" aria-label="Tiers">{cards}</section>' if cards else ""


def tables(board: BoardResult) -> str:
    """Rows by table and tier, and what waits: where there are many, those of which something waits come first."""
    shown = sorted(board.tables.items(), key=lambda one: not (one[1].in_flight or one[1].conflicts or one[1].cause))[:_TABLES]
    rows = [
        (
            _head(name),
            escape(t.mode),
            _about(t.core_rows_estimate),
            _about(t.main_rows_estimate),
            _exact(t.archive_rows),
            _due(t),
            _waits(t),
        )
        for name, t in shown
    ]
    rest = len(board.tables) - len(shown)
    about = "rows by tier, and what waits" + (f"; tierkeeper status shows {rest:,} more" if rest else "")
    heads = ("Table", "Mode", "Core rows", "Main rows", "Archive rows", "Old enough to move", "Waits")
    return _sheet("Tables", about, heads, rows, right=(2, 3, 4))


def moves(board: BoardResult) -> str:
    """The last moves."""
    rows = [
        (
            instant(m.at), _head(m.table), escape(f"{m.from_} \N{RIGHTWARDS ARROW} {m.to}"), _exact(m.rows), _took(m.seconds),
            _state(m.state), _text(m.cause),
        )
        for m in board.moves or ()
    ]  # fmt: skip
    heads = ("Ended", "Table", "From and to", "Rows", "Took", "State", "Why")
    about = "verified: each row was read back and compared before it was deleted"
    nothing = _AWAY if board.moves is None else "Nothing has moved yet."
    return _sheet("Last moves", about, heads, rows, right=(3, 4), nothing=nothing)


def segments(board: BoardResult) -> str:
    """The archive's files, those read longest ago first."""
    rows = [
        (
            f'<span class="id" title="{escape(s.segment)}">{escape(s.segment[:8])}</span>', _head(s.table), _exact(s.rows),
            escape(format_bytes(s.bytes)), _day(s.min_age), _day(s.max_age), _state(s.state),
            instant(s.verified_at) if s.verified_at else f"{instant(s.written_at)} (when written)",
        )
        for s in board.segments or ()
    ]  # fmt: skip
    every = board.archive.segments if board.archive is not None else len(rows)
    about = f"{len(rows)} of {every}, those whose reading is longest ago" if every > len(rows) else "each is read back whole"
    heads = ("Segment", "Table", "Rows", "Size", "Oldest row", "Newest row", "State", "Last read and verified")
    nothing = "The archive's catalog does not answer." if board.segments is None else "The archive holds no segment yet."
    return _sheet("Archive", about, heads, rows, right=(2, 3), nothing=nothing)


def jobs(board: BoardResult) -> str:
    """What runs by itself; nothing where nothing does."""
    rows = [
        (
            _head(name),
            instant(j.ok_at) if j.ok_at else "not yet",
            instant(j.next_at) if j.next_at else "off",
            f'<span class="state bad">{escape(j.cause)}</span>' if j.cause else '<span class="state good">well</span>',
        )
        for name, j in board.jobs.items()
    ]
    return _sheet("Schedule", "", ("Job", "Went well last", "Next", "State"), rows) if rows else ""


def audit(board: BoardResult) -> str:
    """Who did what, the newest first."""
    rows = [
        (instant(a.at), escape(a.actor), escape(a.verb), escape(a.subject), _took(a.seconds), _state(a.state), _text(a.cause))
        for a in board.audit or ()
    ]
    heads = ("Begun", "Who", "What", "On", "Took", "State", "Why")
    about = "the last actions: each has an intent before it and an outcome after it"
    return _sheet("Audit", about, heads, rows, right=(4,), nothing=_AWAY if board.audit is None else "Nothing was done yet.")


def _card(name: str, tier: TierStatus, board: BoardResult) -> str:
    away = tier.read_only is None and not tier.healthy
    words, tone = ("away", "bad") if away else ("not well", "bad") if not tier.healthy else ("read-only", "warn")
    if tier.healthy and not tier.read_only:
        words, tone = ("well", "good") if tier.cause is None else ("look at it", "warn")
    used = _NONE if tier.used_bytes is None else format_bytes(tier.used_bytes)
    share = "" if tier.share is None else f", {tier.share:.{0 if tier.share >= _LEAST else 1}%}"
    facts = [("Rows", _rows(name, board)), ("Full", _forecast(tier.forecast)), ("Cost", _cost(tier.cost))]
    if tier.egress_budget_bytes:
        sent = _NONE if tier.egress_bytes_this_month is None else format_bytes(tier.egress_bytes_this_month)
        facts.append(("Sent", escape(f"{sent} of {format_bytes(tier.egress_budget_bytes)} this month")))
    listed = "".join(f"<dt>{key}</dt><dd>{value}</dd>" for key, value in facts)
    return (
        f'<article class="card"><h3>{escape(name)}<span class="state {tone}">{words}</span></h3>'
        f'<p class="used">{escape(used)} <small>of {escape(format_bytes(tier.quota_bytes))}{share}</small></p>'
        f"{_bar(tier.share)}<dl>{listed}</dl></article>"
    )


def _bar(share: float | None) -> str:
    """The line stands at the share from which the tier counts as full."""
    if share is None:
        return '<svg class="bar" role="img" aria-label="not known"></svg>'
    tone = " bad" if share >= _FULL else " warn" if share >= _HIGH else ""
    return (
        f'<svg class="bar{tone}" role="img" aria-label="{share:.0%} of the quota is used" viewBox="0 0 100 4"'
        f' preserveAspectRatio="none"><rect width="{min(100.0, max(0.0, share * 100)):.1f}" height="4"/>'
        f'<line x1="{_FULL * 100:.0f}" x2="{_FULL * 100:.0f}" y2="4"/></svg>'
    )


def _rows(name: str, board: BoardResult) -> str:
    """Of all tables that move; a mirrored one is in two tiers, and would count twice."""
    counts = {
        "core": [t.core_rows_estimate for t in board.tables.values() if t.mode != "mirror"],
        "main": [t.main_rows_estimate for t in board.tables.values() if t.mode != "mirror"],
        "archive": [t.archive_rows for t in board.tables.values() if t.mode != "mirror"],
    }.get(name, [])
    known = [c for c in counts if c is not None]
    if not known:
        return _NONE
    return f"{sum(known):,}" if name == "archive" else f"~{sum(known):,}"


def _forecast(forecast: ForecastResult | None) -> str:
    if forecast is None or forecast.confidence == "none":
        return f'<span class="soft">not known{"" if forecast is None else f": {escape(forecast.reason)}"}</span>'
    if forecast.likely is None:
        return "not within ten years"
    soon = forecast.days_to_full is not None and forecast.days_to_full < _SOON_DAYS
    told = f"{forecast.likely:%Y-%m-%d} (confidence {forecast.confidence})"
    return f'<span class="state bad">{told}</span>' if soon else told


def _cost(cost: CostResult | None) -> str:
    if cost is None:
        return f'<span class="soft">{_NONE}</span>'
    if not cost.month and not cost.so_far:
        return "free"
    return escape(f"{cost.month:.2f} {cost.currency} this month, {cost.so_far:.2f} so far")


def _due(table: BoardTable) -> str:
    """What the policy would move now."""
    parts = [
        f"~{rows:,} in {tier}"
        for tier, rows in (("Core", table.core_due_estimate), ("Main", table.main_due_estimate))
        if rows is not None
    ]
    return ", ".join(parts) or _NONE


def _waits(table: BoardTable) -> str:
    parts = []
    if table.in_flight:
        parts.append(f"{table.in_flight:,} {'batch' if table.in_flight == 1 else 'batches'} in flight")
    if table.conflicts:
        parts.append(f"{table.conflicts:,} {'key' if table.conflicts == 1 else 'keys'} in both tiers")
    if table.in_flight is None:
        parts.append("not known")
    return ", ".join(parts) or "nothing"


def _sheet(
    title: str, about: str, heads: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[int] = (), nothing: str = ""
) -> str:
    """A table; on a narrow screen each row becomes a block, where a cell that says nothing is left out."""
    said = f"<small>{escape(about)}</small>" if about else ""
    rows, lines = list(rows), []
    shown = [i for i in range(len(heads)) if any(row[i] for row in rows)]  # nobody needs a column that is empty
    heads, rows = [heads[i] for i in shown], [[row[i] for i in shown] for row in rows]
    right = [shown.index(i) for i in right if i in shown]
    for row in rows:
        cells = []
        for i, (head, value) in enumerate(zip(heads, row, strict=True)):
            css = " ".join(filter(None, ("n" if i in right else "", "none" if value in ("", _NONE) else "")))
            kind = f' class="{css}"' if css else ""
            cells.append(f'<td{kind} data-label="{escape(head)}">{value}</td>')
        lines.append(f"<tr>{''.join(cells)}</tr>")
    if not lines:
        return f'<section><h2>{escape(title)}</h2><p class="soft">{escape(nothing)}</p></section>' if nothing else ""
    numbers = ['<th class="n">' if i in right else "<th>" for i in range(len(heads))]
    top = "".join(f"{opens}{escape(head)}</th>" for opens, head in zip(numbers, heads, strict=True))
    body = f"<table><thead><tr>{top}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<section><h2>{escape(title)}{said}</h2><div class="sheet">{body}</div></section>'


def _head(name: str) -> str:
    return f"<b>{escape(name)}</b>"


def _state(state: str) -> str:
    return f'<span class="state {_TONES.get(state, "warn")}">{escape(_SHOWN_STATES.get(state, state))}</span>'


def _about(rows: int | None) -> str:
    return _NONE if rows is None else f"~{rows:,}"


def _exact(rows: int | None) -> str:
    return _NONE if rows is None else f"{rows:,}"


def _took(seconds: float | None) -> str:
    return _NONE if seconds is None else f"{seconds:.1f} s"


def _day(moment: datetime | None) -> str:
    return _NONE if moment is None else f"{moment:%Y-%m-%d}"


def _text(text: str | None) -> str:
    return escape(text or "")
