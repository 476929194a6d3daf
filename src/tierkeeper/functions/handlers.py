"""The event handlers of the four functions: an event in, a JSON-able document out, the project's error raised.

`{}` (also a schedule's own event) runs the function as its schedule does. An event with a key that is not known, or that the
action does not use, is refused, so that a misspelt `dry_run` never moves a row. A run that nears its time limit ends at a safe
point and says what is left.
"""

import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from tierkeeper.functions import events, parameters, verdict
from tierkeeper.functions.archiver import HomeServerArchiver
from tierkeeper.functions.balancer import IntelligentLoadBalancer
from tierkeeper.functions.base import environment
from tierkeeper.functions.events import Action, Call, Known
from tierkeeper.functions.limit import Bounds
from tierkeeper.functions.quota import MultiTierQuotaManager
from tierkeeper.functions.setup import MultiTierSetup
from tierkeeper.kernel import results as r
from tierkeeper.kernel.errors import Failed, TierkeeperError, UsageError
from tierkeeper.kernel.host import has_lasting_disk

Document = dict[str, Any]
Handler = Callable[[object, object], Document]

_AGAIN: Final = "The next run settles what was in flight and goes on there; if it comes again, give the function a longer timeout"
_LESS: Final = (
    "It is one transaction: nothing was restored, unless all of it was and the time was over just then. Look which, then ask for "
    "less of it (since, until, segment), or give the function a longer timeout"
)

ARCHIVER: Final = Known(
    "home_server_archiver",
    (
        Action("run", ("dry_run", "table", "before")),
        Action("verify", ("segment", "sample", "before")),
        Action("list", ("table",)),
        Action("restore", ("table", "to", "since", "until", "segment", "tier", "on_conflict"), needs=("table", "to")),
    ),
)
BALANCER: Final = Known("intelligent_load_balancer", (Action("check"),), answers_http=True)
QUOTA: Final = Known(
    "multi_tier_quota_manager",
    (
        Action("run", ("dry_run", "allow_rewrite")),
        Action("status"),
        Action("optimise", ("promise",)),
        Action("what_if", ("what_if",), needs=("what_if",)),
    ),
)
SETUP: Final = Known("multi_tier_setup", (Action("apply", ("dry_run",)), Action("plan"), Action("check")))


def home_server_archiver(event: object, context: object = None) -> Document:
    """Archives; verifies, lists and restores on request. See `ARCHIVER` for its actions and their keys."""
    return _handled(ARCHIVER, event, context, _archive)


def intelligent_load_balancer(event: object, context: object = None) -> Document:
    """Asks the services, and on a schedule publishes what it finds. An HTTP event is answered by a healthy backend."""
    return _handled(BALANCER, event, context, _balance)


def multi_tier_quota_manager(event: object, context: object = None) -> Document:
    """Runs the quota manager; tells how the tiers are, and weighs cutoffs. See `QUOTA`."""
    return _handled(QUOTA, event, context, _manage)


def multi_tier_setup(event: object, context: object = None) -> Document:
    """Makes what the tiers lack; a second run finds nothing to do. See `SETUP`."""
    return _handled(SETUP, event, context, _set_up)


def _handled(known: Known, event: object, context: object, work: Callable[[Call, Bounds], r.Answer]) -> Document:
    """The answer as a document. Raises the project's error, without secrets, also for an answer that tells of faults."""
    try:
        call = events.read(event, known)
        return _proxied(call, context) if call.trigger == "http" else _worked(call, context, work)
    except TierkeeperError as error:
        raise verdict.told(error, parameters.to_hide()) from None
    except Exception as error:  # noqa: BLE001 - its message may quote anything, and all that is raised here is shown
        from tierkeeper.cli import output

        output.show_trace(error, parameters.to_hide())
        raise Failed(
            known.function,
            f"an unexpected {type(error).__name__}: this is a fault of tierkeeper",
            "Report the event and what the log shows; what was in flight is settled by the next run",
        ) from None


def _worked(call: Call, context: object, work: Callable[[Call, Bounds], r.Answer]) -> Document:
    bounds = Bounds.of(context)
    answer = bounds.run(lambda: work(call, bounds), _LESS if call.action == "restore" else _AGAIN)
    if (fault := verdict.fault(answer)) is not None:
        raise fault
    return answer.model_dump(mode="json")


def _archive(call: Call, bounds: Bounds) -> r.Answer:
    function, keys = HomeServerArchiver(call.config, bounds=bounds), call.keys
    table, before = keys.get("table"), keys.get("before")
    if call.action == "verify":
        if "segment" in keys and len(keys) > 1:
            raise UsageError("event: segment", "one segment has no share, and is read whenever it was", "Give it alone")
        return _answer(r.VerifyAnswer, call, function.verify(keys.get("segment"), keys.get("sample"), before=before))
    if call.action == "list":
        return r.ArchiveListAnswer(trigger=call.trigger, action=call.action, segments=function.segments(table))
    if call.action == "restore":
        from tierkeeper.cli import arguments

        arguments.target(keys["to"])
        return _answer(r.RestoreAnswer, call, function.restore(**keys))
    if keys.get("dry_run"):
        return r.ArchivePlanAnswer(trigger=call.trigger, action=call.action, plans=function.plan(table, before))
    return _answer(r.ArchiveRunAnswer, call, function.run(table, before))


def _balance(call: Call, bounds: Bounds) -> r.Answer:
    found = IntelligentLoadBalancer(call.config, bounds=bounds).health()
    if call.trigger == "schedule" and not has_lasting_disk(environment()):
        from tierkeeper.functions import metrics

        # Lambda's log makes metrics of these lines. Elsewhere stdout is the answer's.
        sys.stdout.write("".join(f"{line}\n" for line in metrics.lines(found.checks, datetime.now(UTC))))
        sys.stdout.flush()
    return _answer(r.HealthAnswer, call, found)


def _manage(call: Call, bounds: Bounds) -> r.Answer:
    function, keys = MultiTierQuotaManager(call.config, bounds=bounds), call.keys
    if call.action == "status":
        return _answer(r.StatusAnswer, call, function.status())
    if call.action == "optimise":
        return _answer(r.OptimiseAnswer, call, function.optimise(keys.get("promise")))
    if call.action == "what_if":
        return _answer(r.WhatIfAnswer, call, function.what_if(keys["what_if"]))
    return _answer(r.QuotaAnswer, call, function.run(**keys))


def _set_up(call: Call, bounds: Bounds) -> r.Answer:
    function = MultiTierSetup(call.config, bounds=bounds)
    if call.action == "check":
        return _answer(r.CheckAnswer, call, function.check())
    return _answer(r.SetupAnswer, call, function.run(apply=call.action == "apply" and not call.keys.get("dry_run", False)))


def _answer(kind: type[r.Answer], call: Call, result: r.Result) -> r.Answer:
    return kind(**dict(result), trigger=call.trigger, action=call.action)


def _proxied(call: Call, context: object) -> Document:
    """The remaining time of the function bounds the request."""
    from tierkeeper.config import load
    from tierkeeper.functions import proxying

    settings = load(None, environment(), Path.cwd())
    proxy = proxying.proxy_for(settings, environment().get("TIERKEEPER_SERVICE"))
    left = getattr(context, "get_remaining_time_in_millis", None)
    seconds = left() / 1000 - proxying.REMAINING_SECONDS if callable(left) else None
    return proxy.answer(call.request, seconds)


__all__ = ["home_server_archiver", "intelligent_load_balancer", "multi_tier_quota_manager", "multi_tier_setup"]
