"""Each artifact does its function's work on real tiers, from its own files and the standard library alone."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

import artifacts
import lambdas
import pythons
from packing import graph, parts
from support import EVENTS, Tiers, TiersFactory, sampled, tierkeeper_toml

LAMBDAS = "3.13"
OWN = "3.11"
DAILY = LAMBDAS if pythons.find(LAMBDAS) else OWN
POLICY = (
    {"name": "public.events", "age": "at", "core": "30 days", "main": "365 days"},
    {"name": "public.kinds", "mode": "mirror"},
)

Unpacked = Callable[[str], tuple[Path, dict[str, Path]]]


def furnish(tiers: Tiers) -> None:
    with psycopg.connect(tiers.core.uri, autocommit=True) as conn:
        conn.execute(EVENTS)


def versions() -> list[Any]:
    """Lambda's Python in every run, and this machine's own in the long one; this machine's where the other is not here."""
    missing = pytest.mark.skipif(DAILY != LAMBDAS, reason=pythons.why_not(LAMBDAS))
    return [pytest.param(LAMBDAS, marks=missing), *sampled([OWN], DAILY)]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], tuple[Path, dict[str, Path]]]]:
    """`at("3.13")`: a folder and the artifacts for that Python, unpacked in it."""
    folders: dict[str, Path] = {}
    places: dict[str, dict[str, Path]] = {}

    def of(python: str) -> tuple[Path, dict[str, Path]]:
        if python not in folders:
            folders[python] = tmp_path_factory.mktemp("lambda")
            places[python] = lambdas.unpacked(python, folders[python])
        return folders[python], places[python]

    yield of
    for folder in folders.values():
        lambdas.tidied(folder)


@pytest.mark.parametrize("python", versions())
def test_the_functions_keep_a_house_of_three_tiers(python: str, at: Unpacked, make_tiers: TiersFactory) -> None:
    """From nothing to verified segments and back: each step by its own artifact, as Lambda lays it out."""
    tiers = make_tiers(furnish=furnish)
    config = {"TIERKEEPER_CONFIG": str(tierkeeper_toml(tiers, POLICY))}
    folder, places = at(python)

    def call(function: str, environment: dict[str, str], *events: object) -> dict[str, Any]:
        return lambdas.call(python, places[function], events, environment, cwd=folder)

    wrong = {"no_such_key": True}

    # The first set-up is for a machine with a lasting disk, where the archive's key can stay.
    (made,) = call("multi-tier-setup", {**config, "HOME": str(tiers.home)}, {"action": "apply"})["answers"]
    assert made["applied"]
    key = (tiers.home / ".config" / "tierkeeper" / "archive.key").read_text()
    at_lambda = {**config, "TIERKEEPER_KEY": key, "AWS_LAMBDA_FUNCTION_NAME": "it", "XDG_STATE_HOME": str(folder / "tmp")}

    run, refused = call("multi-tier-quota-manager", at_lambda, {}, wrong)["answers"]
    assert (refused["raised"], "no_such_key" in refused["cause"]) == ("UsageError", True)
    moved = [(m["from"], m["to"], m["rows"], m["rows_left"]) for m in run["moves"]]
    assert moved == [("core", "main", 2000, 0), ("main", "archive", 2000, 0)]
    with psycopg.connect(tiers.main.uri, autocommit=True) as conn:
        conn.execute("INSERT INTO public.events SELECT i, '2023-01-01', 'a', 'older ' || i FROM generate_series(5001, 5100) AS i")
    events = {}, {"action": "verify"}, {"action": "restore", "table": "public.events", "to": "public.again"}
    archived, verified, restored = call("home-server-archiver", at_lambda, *events)["answers"]
    assert [(m["rows"], m["rows_left"]) for m in archived["runs"]] == [(100, 0)]
    assert (verified["ok"], verified["checked"]) == (True, 2)
    assert restored["rows"] == 2100
    with psycopg.connect(tiers.main.uri) as conn:
        assert conn.execute("SELECT count(*), count(DISTINCT id) FROM public.again").fetchone() == (2100, 2100)

    healthy = call("intelligent-load-balancer", at_lambda, {}, wrong)
    assert healthy["answers"][1]["raised"] == "UsageError"
    assert (healthy["answers"][0]["ok"], len(healthy["answers"][0]["checks"])) == (True, 4)
    assert not {"pyarrow", "cryptography"} & set(healthy["loaded"])


@pytest.mark.parametrize("python", versions())
def test_all_that_an_artifact_has_can_be_imported_from_it(python: str, at: Unpacked) -> None:
    """Also what the way through the tiers did not come by: a store in a bucket."""
    project, (folder, places) = graph.Graph(lambdas.ROOT / "src"), at(python)
    for function in ("home-server-archiver", "intelligent-load-balancer"):
        reached = project.reached(lambdas.ROOT / f"{function.replace('-', '_')}.py", artifacts.LEFT_OUT[function])
        assert "obstore" in reached.outside
        outside = set(reached.outside) - set(parts.ALONE)  # of those only data is there
        assert set(lambdas.imported(python, places[function], outside, cwd=folder)) <= reached.modules
        if "botocore" in reached.outside:
            lambdas.asks_aws(python, places[function], cwd=folder)
