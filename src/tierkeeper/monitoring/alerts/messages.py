"""Notices as text that reads well in an e-mail and in a chat: what, why with figures, what to do now. No markup. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from tierkeeper.kernel.limits import ALERT_BODY_CHARS, ALERT_SHOWN
from tierkeeper.monitoring.alerts.model import Notice

_NAME = "tierkeeper"
_MORE = "More is shown by `tierkeeper alert status`."


@dataclass(frozen=True)
class Message:
    """What one target gets in one turn. `tone` is how services that have colours show it."""

    title: str
    body: str
    tone: Literal["info", "success", "warning", "failure"]


TEST = Message(
    f"{_NAME}: test",
    "This is a test of `tierkeeper alert test`.\nWhy: somebody asked whether this target can be reached. It can.\n"
    "Do now: nothing.",
    "info",
)


def write(notices: Sequence[Notice], now: datetime) -> Message:
    """One message of all `notices`, the gravest first; many are gathered, so that a flood is one message."""
    new = [n for n in notices if n.news not in ("over", "was")]
    tone: Literal["success", "warning", "failure"] = "success"
    if new:
        tone = "failure" if any(n.record.condition.severity > 1 for n in new) else "warning"
    if len(notices) == 1:
        return Message(f"{_NAME}: {_headline(notices[0])}", _block(notices[0], now), tone)
    over = len(notices) - len(new)
    counts = [f"{len(new)} to look at" if new else "", f"{over} over" if over else ""]
    parts, left = [], ALERT_BODY_CHARS - len(_MORE) - 2
    for number, notice in enumerate(notices):
        text = _block(notice, now) if number < ALERT_SHOWN else f"- {_headline(notice)}"
        if len(text) + 2 > left:
            text = f"- {_headline(notice)}"
        if len(text) + 2 > left:
            break
        parts.append(text)
        left -= len(text) + 2
    return Message(f"{_NAME}: {', '.join(c for c in counts if c)}", "\n\n".join([*parts, _MORE]), tone)


def _headline(notice: Notice) -> str:
    what = notice.record.condition.what
    return {"over": f"over: {what}", "was": f"was so, and is over: {what}", "reminder": f"still: {what}"}.get(notice.news, what)


def _block(notice: Notice, now: datetime) -> str:
    record, condition = notice.record, notice.record.condition
    lines = [_headline(notice)]
    if notice.news in ("over", "was"):
        lasted = (record.resolved_at or now) - record.since
        lines.append(f"It was so for {_lasted(lasted)}, from {record.since:%Y-%m-%d %H:%M} UTC. Do now: nothing.")
        if notice.news == "was":
            lines.insert(1, f"Then: {condition.cause}.")
    else:
        lines.append(f"Why: {condition.cause}.")
        lines.append(f"Do now: {condition.remedy}.")
        since = f", since {record.since:%Y-%m-%d %H:%M} UTC" if record.since < now else ""
        lines.append(f"({condition.kind.value}: {condition.subject}, {condition.severity.word}{since})")
    return "\n".join(lines)


def _lasted(span: timedelta) -> str:
    minutes = max(1, round(span / timedelta(minutes=1)))
    if minutes < 120:  # noqa: PLR2004
        return f"{minutes} minutes"
    return f"{minutes / 60:.0f} hours" if minutes < 48 * 60 else f"{minutes / 1440:.1f} days"
