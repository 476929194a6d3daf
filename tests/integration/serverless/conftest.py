"""An AWS account on this machine, empty for each test."""

from collections.abc import Iterator

import pytest

from cloud import Account, account


@pytest.fixture(scope="session")
def _account() -> Iterator[Account]:
    with account() as made:
        yield made


@pytest.fixture
def aws(_account: Account) -> Account:
    """Nothing is in it but what the test puts there."""
    _account.empty()
    return _account
