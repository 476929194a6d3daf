"""What kind of machine this is."""

import os
from pathlib import Path

import pytest

from tierkeeper.kernel.host import has_lasting_disk, home


@pytest.mark.parametrize(
    ("environment", "lasts"),
    [
        ({}, True),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f"}, False),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f", "IS_LOCAL": ""}, False),
        ({"AWS_LAMBDA_FUNCTION_NAME": "f", "IS_LOCAL": "true"}, True),
        ({"IS_LOCAL": "true"}, True),
    ],
)
def test_a_lambda_has_none_and_invoke_local_has_ones_own(environment: dict[str, str], lasts: bool) -> None:
    assert has_lasting_disk(environment) is lasts


def test_a_user_whom_nobody_knows_has_a_home_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    assert home({"HOME": "/a"}) == Path("/a")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_001)
    assert not home({}).exists()
