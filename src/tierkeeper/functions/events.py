"""What an event asks for: who sent it, which action, with which keys. Pure: nothing is opened for an event that is wrong (I10).

A direct call, a schedule's own event and an HTTP request have no key in common that one could be mistaken by: what has a key of
one kind must be whole, and have nothing of another.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, cast, get_args

from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import OnConflict
from tierkeeper.kernel.results.functions import Trigger
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import parse_instant

Read = Callable[[Any, str], Any]
"""`read(value, place)`: the value as the function takes it. Raises UsageError."""

_SOURCES: Final = ("aws.events", "aws.scheduler")  # a rule of EventBridge, and EventBridge Scheduler
_KIND: Final = "Scheduled Event"
_SCHEDULE: Final = frozenset({"id", "detail-type", "source", "account", "time", "region", "resources", "detail"})
_HTTP: Final = frozenset(
    {"routeKey", "rawPath", "rawQueryString", "cookies", "headers", "queryStringParameters", "requestContext", "body"}
    | {"pathParameters", "isBase64Encoded", "stageVariables", "httpMethod", "resource", "path"}
    | {"multiValueHeaders", "multiValueQueryStringParameters"}  # of payload 1.0, which is told apart to be refused
)
_SAYS_WHAT: Final = frozenset({"source", "detail-type"})  # a rule's input transformer may leave out the others
_BOTH: Final = "version"  # a schedule's is 0, a request's 2.0
_PAYLOAD: Final = "2.0"
_WHOLE: Final = "Give a direct call its own keys alone; a schedule's and an HTTP event come whole from AWS"


@dataclass(frozen=True)
class Action:
    """Something that a function does: the keys that it uses, and those of them that it cannot do without."""

    name: str
    uses: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Known:
    """What a function takes. The first of its actions is its real job, which an empty event runs."""

    function: str
    actions: tuple[Action, ...]
    answers_http: bool = False


@dataclass(frozen=True)
class Call:
    """An event that was read. Of an HTTP event, `request` is the event itself."""

    trigger: Trigger
    action: str
    keys: Mapping[str, Any] = field(default_factory=dict)
    config: Path | None = None
    request: Mapping[str, Any] = field(default_factory=dict)


def read(event: object, known: Known) -> Call:
    """The event, checked whole. Raises UsageError that says what is known."""
    if event is None or event == "":
        event = {}
    if not isinstance(event, Mapping):
        given = "text, as what is no JSON arrives" if isinstance(event, str) else type(event).__name__
        cause = f"{known.function} takes an object, not {given}"
        raise UsageError("event", cause, 'Give a JSON object, such as {"dry_run": true}')
    trigger = trigger_of(event)
    if trigger == "http":
        return _request(event, known)
    return Call(trigger, known.actions[0].name) if event.keys() & _SCHEDULE else _steered(event, known)


def trigger_of(event: Mapping[str, Any]) -> Trigger:
    """Who sent it. A schedule with an input of its own says so: `"trigger": "schedule"`.

    Raises UsageError for what is half of one kind, or of two.
    """
    schedule, http = event.keys() & _SCHEDULE, event.keys() & _HTTP
    if schedule and http:
        raise _half(f"it has a schedule's keys ({_listed(schedule)}) and those of an HTTP event ({_listed(http)})")
    if schedule:
        _require_schedule(event)
        return "schedule"
    if http:
        _require_request(event)
        return "http"
    said = event.get("trigger", "direct")
    if said not in ("direct", "schedule"):
        raise UsageError("event: trigger", f"{said!r} is none", 'A schedule with an input of its own says "schedule" here')
    return cast("Trigger", said)


def _require_schedule(event: Mapping[str, Any]) -> None:
    missing, more = _SAYS_WHAT - event.keys(), event.keys() - _SCHEDULE - {_BOTH}
    if missing:
        raise _half(f"it has keys of a schedule's event, and lacks {_listed(missing)}")
    if more:
        raise _half(f"beside a schedule's event it has {_listed(more)}")
    source, kind = event["source"], event["detail-type"]
    if source not in _SOURCES or kind != _KIND:
        raise UsageError("event", f"it is no schedule's: {source!r} sent a {kind!r}", "Call it by a schedule, or directly")
    if event.get("detail", {}) not in ({}, "{}"):
        raise _half("a schedule's event with a detail is none")
    named = event.get("resources", ["arn:"])
    if not isinstance(named, list) or not named or not all(isinstance(one, str) and one.startswith("arn:") for one in named):
        raise _half("it does not name the schedule in 'resources'")


def _require_request(event: Mapping[str, Any]) -> None:
    context = event.get("requestContext")
    http = context.get("http") if isinstance(context, Mapping) else None
    if event.get(_BOTH) != _PAYLOAD and ("httpMethod" in event or event.get(_BOTH) == "1.0"):
        remedy = "Use a function URL, or an HTTP API with payload format 2.0"
        raise UsageError("event", "it is an HTTP event in payload format 1.0, and 2.0 is what is answered", remedy)
    whole = isinstance(http, Mapping) and isinstance(http.get("method"), str) and isinstance(event.get("rawPath"), str)
    if not whole or event.get(_BOTH) != _PAYLOAD:
        raise _half(f"it has keys of an HTTP event ({_listed(event.keys() & _HTTP)}), and not all of them")
    if not isinstance(event.get("headers") or {}, Mapping) or not isinstance(event.get("cookies") or [], list):
        raise _half("its headers are no object, or its cookies no list")
    if own := event.keys() & (KEYS.keys() | {"action", "config", "trigger"}):
        raise _half(f"beside an HTTP event it has {_listed(own)}")


def _request(event: Mapping[str, Any], known: Known) -> Call:
    if not known.answers_http:
        cause = f"{known.function} answers no HTTP event: it has no URL, and nothing was run"
        raise UsageError("event", cause, "Call it by its schedule, or directly")
    return Call("http", "answer", request=event)


def _steered(event: Mapping[str, Any], known: Known) -> Call:
    """A direct call, or a schedule with an input of its own."""
    _refuse_unknown(event, known)
    names = {a.name: a for a in known.actions}
    asked = event.get("action", known.actions[0].name)
    if not isinstance(asked, str) or asked not in names:
        cause = f"{asked!r} is not known to {known.function}"
        raise UsageError("event: action", cause, f"Give one of {', '.join(names)}{_meant(asked, names)}")
    action = names[asked]
    if idle := [key for key in event if key in KEYS and key not in action.uses]:
        takes = f"it takes {', '.join(action.uses)}" if action.uses else "it takes no key"
        cause = f"{', '.join(idle)} {'means' if len(idle) == 1 else 'mean'} nothing to action {asked}"
        raise UsageError(f"event: {idle[0]}", cause, f"Take it out; {takes}")
    if missing := [key for key in action.needs if key not in event]:
        example = ", ".join(f'"{key}": "…"' for key in action.needs)
        lacks = f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing"
        cause = f"action {asked} needs {' and '.join(repr(k) for k in action.needs)}, and {lacks}"
        raise UsageError("event", cause, f'Give {{"action": "{asked}", {example}}}')
    keys = {key: KEYS[key](event[key], f"event: {key}") for key in action.uses if key in event}
    since, until = keys.get("since"), keys.get("until")
    if since is not None and until is not None and until <= since:
        raise UsageError("event: until", "it does not lie after since, so nothing can lie between", "Give a later until")
    config = Path(_text(event["config"], "event: config")) if "config" in event else None
    return Call(trigger_of(event), asked, keys, config)


def _refuse_unknown(event: Mapping[str, Any], known: Known) -> None:
    own = [*dict.fromkeys(key for action in known.actions for key in action.uses)]
    takes = ["action", "config", "trigger", *own]
    unknown = [str(key) for key in event if key not in takes]
    if unknown:
        actions = ", ".join(a.name for a in known.actions)
        remedy = f"Known are action ({actions}), {', '.join(takes[1:])}{_meant(unknown[0], takes)}"
        raise UsageError(
            "event", f"{', '.join(unknown)} {'is' if len(unknown) == 1 else 'are'} not known to {known.function}", remedy
        )


def _meant(given: object, known: Mapping[str, object] | list[str]) -> str:
    close = get_close_matches(str(given), list(known), 1)
    return f"; did you mean {close[0]}?" if close else ""


def _half(cause: str) -> UsageError:
    return UsageError("event", cause, _WHOLE)


def _listed(keys: frozenset[str] | set[str]) -> str:
    return ", ".join(sorted(map(str, keys)))


def _flag(value: object, place: str) -> bool:
    if not isinstance(value, bool):
        raise UsageError(place, "this must be true or false", "Correct its type")
    return value


def _text(value: object, place: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UsageError(place, "this must be text", "Correct its type, or leave it out")
    return value


def _texts(value: object, place: str) -> list[str]:
    return [_text(one, place) for one in (value if isinstance(value, list) and value else [value])]


def _table(value: object, place: str) -> str:
    text = _text(value, place)
    TableName.parse(text, place)
    return text


def _instant(value: object, place: str) -> object:
    return parse_instant(_text(value, place), place)


def _one_of(*known: str) -> Read:
    def read_one(value: object, place: str) -> str:
        if value not in known:
            raise UsageError(place, f"{value!r} is not known", f"Give one of {', '.join(known)}")
        return str(value)

    return read_one


KEYS: Final[Mapping[str, Read]] = MappingProxyType(  # of all actions
    {
        "dry_run": _flag,
        "allow_rewrite": _flag,
        "table": _table,
        "before": _instant,
        "since": _instant,
        "until": _instant,
        "segment": _text,
        "sample": _text,
        "to": _text,
        "tier": _one_of("core", "main"),
        "on_conflict": _one_of(*get_args(OnConflict)),
        "promise": _text,
        "what_if": _texts,
    }
)
