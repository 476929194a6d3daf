from datetime import UTC, datetime

import pytest

from tierkeeper.cli.arguments import proposal
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.policy import TablePolicy
from tierkeeper.kernel.tables import TableName
from tierkeeper.kernel.units import Age
from tierkeeper.quotas.change import changed, parse
from tierkeeper.quotas.stock import Cutoffs

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ONE, ODD = TableName("public", "one"), TableName("Odd", 'a:b="c')
POLICIES = [
    TablePolicy(ONE, age="at", core=Age.parse("30 days", ""), main=Age.parse("1 year", "")),
    TablePolicy(ODD, age="at", core=Age.parse("90 days", "")),
    TablePolicy(TableName("public", "mirror"), mode="mirror"),
]


def after(*texts: str) -> dict[TableName, Cutoffs]:
    return changed(POLICIES, [parse(text) for text in texts], NOW)


def test_a_change_is_for_all_tables_or_for_one() -> None:
    assert after("core=45d") == {ONE: Cutoffs(45, 365), ODD: Cutoffs(45, None)}
    assert after("one:main=2 years") == {ONE: Cutoffs(30, 730)}
    assert after("public.one:core=60d", "core=45d") == {ONE: Cutoffs(60, 365), ODD: Cutoffs(45, None)}
    assert after('"Odd"."a:b=""c":core = 12h') == {ODD: Cutoffs(1, None)}  # whole days


@pytest.mark.parametrize(
    "text",
    ["core", "", "=30d", "core=", "archive=30d", "core=0d", "core=soon", "mirror:core=3d", "nowhere:core=3d", "a.b.c:core=3d",
     ":core=3d", "core=400d", "one:main=10d"],
)  # fmt: skip
def test_what_is_no_change_gets_an_error_with_its_remedy(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        after(text)
    assert caught.value.place == "--what-if"
    assert caught.value.remedy


def test_the_same_twice_is_an_error_and_so_is_a_configuration_without_cutoffs() -> None:
    with pytest.raises(UsageError, match="twice"):
        after("core=45d", "core=46d")
    with pytest.raises(UsageError, match="no table moves"):
        changed([], [parse("core=45d")], NOW)


@pytest.mark.parametrize(
    ("given", "place"),
    [
        ({"optimise": True, "what_if": ["core=3d"]}, "--optimise, --what-if"),
        ({"optimise": True, "dry_run": True}, "--dry-run, --optimise"),
        ({"what_if": ["core=3d"], "allow_rewrite": True}, "--allow-rewrite, --what-if"),
        ({"promise": "95%"}, "--promise"),
        ({"optimise": True, "promise": "all"}, "--promise"),
        ({"optimise": True, "promise": "101%"}, "--promise"),
        ({"what_if": ["core"]}, "--what-if"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict[str, object], place: str) -> None:
    usual = {"dry_run": False, "allow_rewrite": False, "optimise": False, "promise": None, "what_if": []}
    with pytest.raises(UsageError) as caught:
        proposal(**{**usual, **given})  # type: ignore[arg-type]
    assert caught.value.place == place
    asked = proposal(dry_run=False, allow_rewrite=False, optimise=True, promise="95%", what_if=[])
    assert (asked.promise, list(asked.changes)) == (0.95, [])


@pytest.mark.parametrize(
    ("asked", "at_least"),
    [("core=10d", "core=14d"), ("main=40d", "main=60d"), ("main=800d", "main=730d")],
)
def test_what_the_tables_entry_would_refuse_is_no_answer(asked: str, at_least: str) -> None:
    texts = {"core": "30 days", "main": "365 days", "core_min": "14 days", "main_min": "60 days", "archive": "730 days"}
    bounded = [TablePolicy(ONE, age="at", **{key: Age.parse(text, "") for key, text in texts.items()})]
    with pytest.raises(UsageError, match=r"rows of public\.one") as caught:
        changed(bounded, [parse(asked)], NOW)
    assert at_least in caught.value.remedy
    assert changed(bounded, [parse(at_least)], NOW)
