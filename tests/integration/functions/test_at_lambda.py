"""A host whose disk does not last and where little can be written: every function works there, and leaves nothing behind."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from invocations import ROOT, RULE
from support import Tiers, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load

POLICY = ({"name": "public.t", "age": "at", "core": "30 days", "main": "60 days"},)
MAKE = """
CREATE TABLE public.t (id int PRIMARY KEY, at timestamptz NOT NULL);
INSERT INTO public.t SELECT i, now() - interval '100 days' FROM generate_series(1, 500) AS i;
INSERT INTO public.t SELECT -i, now() FROM generate_series(1, 50) AS i;
"""


class Host:
    """Home and working folder cannot be written, whoever runs the tests: in a user namespace root may do no more than others."""

    def __init__(self, tiers: Tiers, folder: Path, config: Path) -> None:
        self.tiers, self.scratch = tiers, folder / "tmp"
        self.scratch.mkdir()
        self.home, self.task = folder / "home", folder / "task"
        for one in (self.home, self.task):
            one.mkdir()
        (self.task / "tierkeeper.toml").write_text(config.read_text())
        self.home.chmod(0o555)
        self.task.chmod(0o555)
        self.key = (tiers.home / ".config" / "tierkeeper" / "archive.key").read_text()

    def invoke(self, events: Sequence[tuple[str, object]], **more: str) -> tuple[list[dict[str, Any]], list[str], str]:
        """The answers, what was written, and what was printed."""
        out = self.scratch / "answers.json"
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "TMPDIR": str(self.scratch),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "AWS_LAMBDA_FUNCTION_NAME": "tierkeeper",
            **more,
        }
        command = [sys.executable, "-c", "import invocations, sys; invocations.run_at_lambda(*sys.argv[1:])"]
        nobody = ["unshare", "--user", "--map-user=65534", "--map-group=65534"]
        ran = subprocess.run(
            [*nobody, *command, json.dumps(list(events)), str(out)],
            cwd=self.task, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stderr
        sys.stderr.write(ran.stderr)
        found = json.loads(out.read_text())
        return found["answers"], found["written"], ran.stdout

    def may_be_written(self, path: str) -> bool:
        """The scratch folder, the store, which is another machine at a Lambda, and no file at all."""
        return path == "/dev/null" or path.startswith((str(self.scratch), str(self.tiers.store)))


@pytest.fixture
def host(tiers: Tiers, tmp_path: Path) -> Iterator[Host]:
    with closing(tiers.core.connect("app")) as core:
        core.execute(MAKE.encode())
    config = tierkeeper_toml(tiers, POLICY)
    open_keeper(load(config, {}, tiers.home), environment=tiers.environment).setup(apply=True)
    yield Host(tiers, tmp_path, config)


def test_every_function_works_and_writes_nothing_that_stays(host: Host) -> None:
    asked = [
        ("multi_tier_setup", {}),
        ("multi_tier_setup", {"action": "check"}),
        ("multi_tier_quota_manager", {"dry_run": True}),
        ("multi_tier_quota_manager", RULE),
        ("multi_tier_quota_manager", {"action": "status"}),
        ("multi_tier_quota_manager", {"action": "optimise"}),
        ("multi_tier_quota_manager", {"action": "what_if", "what_if": "core=45d"}),
        ("home_server_archiver", {}),
        ("home_server_archiver", {"action": "verify"}),
        ("home_server_archiver", {"action": "list"}),
        ("home_server_archiver", {"action": "restore", "table": "t", "to": "public.back"}),
        ("home_server_archiver", {"action": "restore", "table": "t", "to": str(host.scratch / "rows.csv")}),
        ("intelligent_load_balancer", {}),
        ("intelligent_load_balancer", RULE),
    ]
    answers, written, printed = host.invoke(asked, TIERKEEPER_KEY=host.key)
    refused = answers.pop(11)
    assert "no lasting disk" in refused["text"]
    assert [a["text"] for a in answers if "raised" in a] == []
    assert [m["rows"] for m in answers[3]["moves"]] == [500, 500]
    assert (answers[8]["checked"], answers[8]["ok"], answers[10]["rows"]) == (1, True, 500)
    assert [path for path in written if not host.may_be_written(path)] == []
    assert [*host.home.iterdir(), *host.task.iterdir()] == [host.task / "tierkeeper.toml"]
    assert [p.name for p in host.scratch.iterdir()] == ["answers.json"]
    published = [json.loads(line) for line in printed.splitlines()]
    assert {d["Backend"] for d in published if "Backend" in d} == {"core", "main", "archive (catalog)", "archive (store)"}
    assert all(d["Healthy"] == 1 and d["Latency"] > 0 for d in published if "Backend" in d)


def test_a_key_that_is_none_is_told_before_a_row_is_due(host: Host) -> None:
    with closing(host.tiers.core.connect("app")) as core:
        core.execute(b"DELETE FROM public.t")
    asked = [("home_server_archiver", {}), ("multi_tier_setup", {"action": "check"})]
    answers, _, _ = host.invoke(asked, TIERKEEPER_KEY=host.key.replace("AGE-SECRET-KEY-1", "AGE-SECRET-KEY-2"))
    assert ["TIERKEEPER_KEY" in a.get("text", "") for a in answers] == [True, True], answers
