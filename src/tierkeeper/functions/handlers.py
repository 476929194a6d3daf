"""The event handlers of the four functions: an event in, a JSON-able document out, the project's error raised.

`{}` (also a schedule's own event) runs the function as its schedule does. An event with a key that is not known is refused,
so that a misspelt `dry_run` never moves a row.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, cast

from tierkeeper.config import load
from tierkeeper.functions import proxying
from tierkeeper.functions.archiver import HomeServerArchiver
from tierkeeper.functions.balancer import IntelligentLoadBalancer
from tierkeeper.functions.quota import MultiTierQuotaManager
from tierkeeper.functions.setup import MultiTierSetup
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.results import Result
from tierkeeper.kernel.units import parse_instant

Document = dict[str, Any]

_KINDS: Final[Mapping[str, type]] = {"dry_run": bool}  # every other key is text


def home_server_archiver(event: object, context: object = None) -> Document:
    """Archives. Keys: `action` (run, verify, list, restore), `table`, `before`, `dry_run`, `segment`, `to`, `since`, `until`."""
    del context
    keys = _read(
        event,
        "home_server_archiver",
        ("table", "before", "dry_run", "segment", "to", "since", "until"),
        ("run", "verify", "list", "restore"),
    )
    function = HomeServerArchiver(keys.get("config"))
    action, table = keys.get("action", "run"), keys.get("table")
    if action == "verify":
        return _document(function.verify(keys.get("segment")))
    if action == "list":
        return {"segments": [_document(s) for s in function.segments(table)]}
    if action == "restore":
        if table is None or "to" not in keys:
            raise UsageError("event", "a restore needs 'table' and 'to'", 'Give {"action": "restore", "table": "…", "to": "…"}')
        since, until = _instant(keys, "since"), _instant(keys, "until")
        return _document(function.restore(table, keys["to"], since=since, until=until, segment=keys.get("segment")))
    before = _instant(keys, "before")
    if keys.get("dry_run"):
        return {"plans": [_document(p) for p in function.plan(table, before)]}
    return _document(function.run(table, before))


def intelligent_load_balancer(event: object, context: object = None) -> Document:
    """Asks the services. Keys: `action` (check). An HTTP event (payload 2.0) is answered by a healthy backend."""
    if proxying.is_http(event):
        return _proxied(event, context)
    keys = _read(event, "intelligent_load_balancer", (), ("check",))
    return _document(IntelligentLoadBalancer(keys.get("config")).health())


def multi_tier_quota_manager(event: object, context: object = None) -> Document:
    """Runs the quota manager. Keys: `action` (run, status), `dry_run`."""
    del context
    keys = _read(event, "multi_tier_quota_manager", ("dry_run",), ("run", "status"))
    function = MultiTierQuotaManager(keys.get("config"))
    if keys.get("action") == "status":
        return _document(function.status())
    return _document(function.run(dry_run=keys.get("dry_run", False)))


def multi_tier_setup(event: object, context: object = None) -> Document:
    """Makes what the tiers lack; a second run finds nothing to do. Keys: `action` (apply, plan, check), `dry_run`."""
    del context
    keys = _read(event, "multi_tier_setup", ("dry_run",), ("apply", "plan", "check"))
    function = MultiTierSetup(keys.get("config"))
    action = keys.get("action", "apply")
    if action == "check":
        return _document(function.check())
    return _document(function.run(apply=action == "apply" and not keys.get("dry_run", False)))


def _proxied(event: object, context: object) -> Document:
    """The remaining time of the function bounds the request."""
    settings = load(None, os.environ, Path.cwd())
    proxy = proxying.proxy_for(settings, os.environ.get("TIERKEEPER_SERVICE"))
    left = getattr(context, "get_remaining_time_in_millis", None)
    seconds = left() / 1000 - proxying.REMAINING_SECONDS if callable(left) else None
    return proxy.answer(cast("Mapping[str, Any]", event), seconds)


Handler = Callable[[object, object], Document]


def _read(event: object, function: str, known: tuple[str, ...], actions: tuple[str, ...]) -> Mapping[str, Any]:
    """The event's keys, checked. Raises UsageError naming what is known."""
    if event is None or event in ("", {}):
        return {}
    if not isinstance(event, Mapping):
        raise UsageError(
            "event", f"{function} takes an object, not {type(event).__name__}", 'Give a JSON object, such as {"dry_run": true}'
        )
    if event.get("source") == "aws.events":
        return {}
    all_known = ("action", "config", *known)
    unknown = [str(key) for key in event if key not in all_known]
    if unknown:
        raise UsageError("event", f"{', '.join(unknown)} is not known to {function}", f"Known are {', '.join(all_known)}")
    for key, value in event.items():
        kind = _KINDS.get(key, str)
        if not isinstance(value, kind):
            raise UsageError(f"event: {key}", f"this must be {'true or false' if kind is bool else 'text'}", "Correct its type")
    if event.get("action", actions[0]) not in actions:
        raise UsageError("event: action", f"{event['action']!r} is not known to {function}", f"Give one of {', '.join(actions)}")
    return event


def _instant(keys: Mapping[str, Any], key: str) -> Any:
    return parse_instant(keys[key], f"event: {key}") if key in keys else None


def _document(result: Result) -> Document:
    return result.model_dump(mode="json")


__all__ = ["home_server_archiver", "intelligent_load_balancer", "multi_tier_quota_manager", "multi_tier_setup"]
