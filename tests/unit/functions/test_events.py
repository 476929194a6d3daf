"""Which event is which, and what an action takes."""

from typing import Any

import pytest

from invocations import REQUEST, RULE, SCHEDULER
from tierkeeper.functions import handlers
from tierkeeper.functions.events import Known, read
from tierkeeper.kernel.errors import UsageError

FUNCTIONS = (handlers.ARCHIVER, handlers.BALANCER, handlers.QUOTA, handlers.SETUP)


def without(event: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {k: v for k, v in event.items() if k not in keys}


@pytest.mark.parametrize("known", FUNCTIONS, ids=lambda k: k.function)
def test_the_three_kinds_are_told_apart(known: Known) -> None:
    bare = {"source": "aws.events", "detail-type": "Scheduled Event"}
    for event, trigger in (({}, "direct"), (RULE, "schedule"), (SCHEDULER, "schedule"), (bare, "schedule")):
        call = read(event, known)
        assert (call.trigger, call.action, dict(call.keys)) == (trigger, known.actions[0].name, {})
    if known.answers_http:
        assert read(REQUEST, known).trigger == "http"


def test_a_schedule_with_an_input_of_its_own_says_so() -> None:
    call = read({"trigger": "schedule", "action": "verify", "sample": "1/30"}, handlers.ARCHIVER)
    assert (call.trigger, call.action, dict(call.keys)) == ("schedule", "verify", {"sample": "1/30"})
    with pytest.raises(UsageError, match="event: trigger"):
        read({"trigger": "http"}, handlers.ARCHIVER)


HALVES = [
    {"source": "aws.events"},
    {"source": "aws.events", "dry_run": True},
    {**RULE, "dry_run": True},
    {**RULE, "action": "verify"},
    {**RULE, "table": "public.t"},
    {**SCHEDULER, "config": "other.toml"},
    {**RULE, "trigger": "schedule"},
    {**RULE, "source": "aws.s3"},
    {**RULE, "source": "com.example"},
    {**RULE, "detail-type": "Object Created"},
    {**RULE, "detail": {"dry_run": True}},
    {**RULE, "resources": []},
    {**RULE, "resources": "arn:aws:events:x"},
    {**RULE, "rawPath": "/"},
    {**REQUEST, "source": "aws.events"},
    {**REQUEST, "dry_run": True},
    {**REQUEST, "action": "check"},
    {**REQUEST, "trigger": "schedule"},
    {**REQUEST, "headers": ["x: y"]},
    {**REQUEST, "cookies": "a=1"},
    {**REQUEST, "version": "1.0"},
    {"requestContext": {"http": {}}, "rawPath": "/"},
    {"requestContext": {}, "version": "2.0"},
    {"httpMethod": "GET", "path": "/", "headers": {}, "requestContext": {}, "version": "1.0"},
    {"headers": {}},
    *(without(RULE, key) for key in ("source", "detail-type")),
    *(without(REQUEST, key) for key in ("version", "rawPath", "requestContext")),
]


@pytest.mark.parametrize("event", HALVES, ids=range(len(HALVES)))
@pytest.mark.parametrize("known", FUNCTIONS, ids=lambda k: k.function)
def test_what_is_half_of_one_kind_is_refused(known: Known, event: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        read(event, known)
    assert caught.value.place.startswith("event")
    assert caught.value.remedy


@pytest.mark.parametrize("known", FUNCTIONS, ids=lambda k: k.function)
def test_what_is_unknown_is_refused_and_what_is_known_is_listed(known: Known) -> None:
    with pytest.raises(UsageError) as caught:
        read({"dryrun": True}, known)
    assert caught.value.cause == f"dryrun is not known to {known.function}"
    for word in ("action", *(a.name for a in known.actions), *(key for a in known.actions for key in a.uses)):
        assert word in caught.value.remedy
    if any("dry_run" in a.uses for a in known.actions):
        assert "did you mean dry_run?" in caught.value.remedy


@pytest.mark.parametrize(
    ("event", "said"),
    [
        ("{dry_run", "not text, as what is no JSON arrives"),
        ([], "not list"),
        ({"action": "restore", "table": "t"}, "and to is missing"),
        ({"action": "restore"}, "and table and to are missing"),
        ({"a": 1, "b": 2}, "a, b are not known"),
    ],
)
def test_a_fault_is_told_in_a_sentence(event: object, said: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(event, handlers.ARCHIVER)
    assert said in caught.value.cause


def test_a_key_that_the_action_does_not_use_is_refused() -> None:
    keys = {"dry_run": True, "table": "t", "before": "2024-01-01", "segment": "s", "sample": "1/2", "to": "u", "tier": "core"}
    for action in handlers.ARCHIVER.actions:
        needed = {key: keys[key] for key in action.needs}
        for key in keys.keys() - set(action.uses):
            with pytest.raises(UsageError, match=f"event: {key}: {key} means nothing to action {action.name}"):
                read({"action": action.name, **needed, key: keys[key]}, handlers.ARCHIVER)
    # The gravest of these: a restore that was meant to be tried alone.
    with pytest.raises(UsageError, match="dry_run means nothing to action restore"):
        read({"action": "restore", "table": "t", "to": "u", "dry_run": True}, handlers.ARCHIVER)
    for idle in ({"action": "status", "dry_run": True}, {"action": "what_if", "what_if": "core=1d", "promise": "9%"}):
        with pytest.raises(UsageError, match="nothing to action"):
            read(idle, handlers.QUOTA)
    for action in ("plan", "check"):
        with pytest.raises(UsageError, match="it takes no key"):
            read({"action": action, "dry_run": False}, handlers.SETUP)


@pytest.mark.parametrize(
    ("known", "event", "place"),
    [
        (handlers.ARCHIVER, {"dry_run": "true"}, "event: dry_run"),
        (handlers.ARCHIVER, {"dry_run": 1}, "event: dry_run"),
        (handlers.ARCHIVER, {"dry_run": None}, "event: dry_run"),
        (handlers.ARCHIVER, {"table": ["a"]}, "event: table"),
        (handlers.ARCHIVER, {"table": "a.b.c.d"}, "event: table"),
        (handlers.ARCHIVER, {"table": ""}, "event: table"),
        (handlers.ARCHIVER, {"before": "yesterday"}, "event: before"),
        (handlers.ARCHIVER, {"before": 2024}, "event: before"),
        (handlers.ARCHIVER, {"action": ["run"]}, "event: action"),
        (handlers.ARCHIVER, {"action": None}, "event: action"),
        (handlers.ARCHIVER, {"action": "restore", "table": "t", "to": "u", "tier": "archive"}, "event: tier"),
        (handlers.ARCHIVER, {"action": "restore", "table": "t", "to": "u", "on_conflict": "merge"}, "event: on_conflict"),
        (
            handlers.ARCHIVER,
            {"action": "restore", "table": "t", "to": "u", "since": "2024-02-01", "until": "2024-02-01"},
            "event: until",
        ),
        (handlers.QUOTA, {"action": "what_if", "what_if": [1]}, "event: what_if"),
        (handlers.QUOTA, {"action": "what_if", "what_if": []}, "event: what_if"),
        (handlers.QUOTA, {"action": "what_if"}, "event"),
        (handlers.SETUP, {"config": 1}, "event: config"),
        (handlers.SETUP, {1: True}, "event"),
        (handlers.SETUP, 5, "event"),
    ],
)
def test_a_wrong_value_is_refused_at_its_place(known: Known, event: object, place: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(event, known)
    assert caught.value.place == place
