"""An AWS account on this machine, empty for each test, and a copy of the project to deploy there."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from cloud import Account, Project, account


@pytest.fixture(scope="session")
def _account() -> Iterator[Account]:
    with account() as made:
        yield made


@pytest.fixture
def aws(_account: Account) -> Account:
    """Nothing is in it but what the test puts there."""
    _account.empty()
    return _account


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Without a configuration of its own."""
    return Project.at(tmp_path)
