"""Secrets from Parameter Store: which are asked for and when, that a function's own variables win, and how what fails is told."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError

from tierkeeper.config import ENVIRONMENT
from tierkeeper.crypto import keys
from tierkeeper.functions import base, parameters
from tierkeeper.functions.parameters import FAILED_SECONDS, REREAD_SECONDS, Secrets
from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError

AT_AWS = {"AWS_LAMBDA_FUNCTION_NAME": "f", "AWS_REGION": "eu-central-1", "TIERKEEPER_PARAMETERS": "/tierkeeper/dev/"}
NAMES = ",".join(f"N{i}" for i in range(23))


@dataclass
class Store:
    """A Parameter Store that answers what it holds, or fails as it is told to, and keeps what it was asked."""

    holds: dict[str, str]
    fails: Exception | None = None
    asked: list[Sequence[str]] = field(default_factory=list)
    now: float = 1_000_000.0

    def get_parameters(self, *, Names: Sequence[str], WithDecryption: bool) -> Mapping[str, Any]:  # noqa: N803 - botocore's
        self.asked.append(Names)
        if self.fails is not None:
            raise self.fails
        assert WithDecryption
        assert 1 <= len(Names) <= 10
        there = [{"Name": name, "Value": self.holds[name]} for name in Names if name in self.holds]
        return {"Parameters": there, "InvalidParameters": [name for name in Names if name not in self.holds]}

    @property
    def secrets(self) -> Secrets:
        return Secrets(lambda _: self, lambda: self.now)


def _refused(code: str, text: str = "", status: int = 400) -> ClientError:
    answer: Any = {"Error": {"Code": code, "Message": text}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(answer, "GetParameters")


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    made = Store({"/tierkeeper/dev/CORE_SUPABASE_URL": "postgresql://from-the-store", "/tierkeeper/dev/MAX_RETRIES": "5"})
    monkeypatch.setattr(parameters, "_KEPT", made.secrets)
    for name in ("AWS_LAMBDA_FUNCTION_NAME", "IS_LOCAL", "TIERKEEPER_PARAMETERS", "TIERKEEPER_PARAMETER_NAMES"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.mark.parametrize("absent", ["AWS_LAMBDA_FUNCTION_NAME", "TIERKEEPER_PARAMETERS", None])
def test_nothing_is_asked_on_ones_own_machine(store: Store, monkeypatch: pytest.MonkeyPatch, absent: str | None) -> None:
    for name, value in {**AT_AWS, "IS_LOCAL": "true"}.items():
        if name not in (absent, "IS_LOCAL" if absent else None):
            monkeypatch.setenv(name, value)
    assert base.environment() is os.environ
    assert store.asked == []


def test_a_function_at_aws_goes_by_its_secrets_and_its_own_variables_win(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        **AT_AWS,
        "MAX_RETRIES": "2",
        "TIERKEEPER_PARAMETER_NAMES": "CORE_SUPABASE_URL, MAX_RETRIES,GONE",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("CORE_SUPABASE_URL", "")
    found = base.environment()
    assert found["CORE_SUPABASE_URL"] == "postgresql://from-the-store"
    assert found["MAX_RETRIES"] == "2"
    assert "GONE" not in found
    assert "postgresql" not in repr(parameters._KEPT)
    assert store.asked == [["/tierkeeper/dev/CORE_SUPABASE_URL", "/tierkeeper/dev/MAX_RETRIES", "/tierkeeper/dev/GONE"]]


def test_names_go_ten_at_a_time_and_each_once(store: Store) -> None:
    store.holds = {f"/tierkeeper/dev/N{i}": str(i) for i in range(23)}
    found = store.secrets.over({**AT_AWS, "TIERKEEPER_PARAMETER_NAMES": NAMES})
    assert [found[f"N{i}"] for i in range(23)] == [str(i) for i in range(23)]
    assert [len(names) for names in store.asked] == [10, 10, 3]


def test_without_names_the_secrets_of_the_users_document_are_asked_for(store: Store) -> None:
    store.secrets.over(AT_AWS)
    assert store.asked == [[f"/tierkeeper/dev/{name}" for name in parameters.SECRET]]
    secret = {name for name in ENVIRONMENT if re.search(r"URL|TOKEN", name)} | {keys.VARIABLE}
    assert {*parameters.SECRET} == secret


def test_a_rotated_secret_arrives_after_some_minutes_and_an_absent_store_takes_none_away(store: Store) -> None:
    secrets, name = store.secrets, "/tierkeeper/dev/CORE_SUPABASE_URL"
    assert secrets.over(AT_AWS)["CORE_SUPABASE_URL"] == store.holds[name]
    store.holds[name], store.now = "rotated", store.now + REREAD_SECONDS - 1
    assert secrets.over(AT_AWS)["CORE_SUPABASE_URL"] == "postgresql://from-the-store"
    store.fails, store.now = _refused("ThrottlingException"), store.now + 2
    assert secrets.over(AT_AWS)["CORE_SUPABASE_URL"] == "postgresql://from-the-store"
    assert len(store.asked) == 2
    store.fails, store.now = None, store.now + REREAD_SECONDS
    assert secrets.over(AT_AWS)["CORE_SUPABASE_URL"] == "rotated"
    store.holds[name], store.now = "again", store.now - 3600  # a clock that was set back
    assert secrets.over(AT_AWS)["CORE_SUPABASE_URL"] == "again"


def test_a_permission_that_was_taken_away_is_told_also_later(store: Store) -> None:
    secrets = store.secrets
    secrets.over(AT_AWS)
    store.fails, store.now = _refused("AccessDeniedException"), store.now + REREAD_SECONDS
    with pytest.raises(Failed):
        secrets.over(AT_AWS)


@pytest.mark.parametrize(
    ("error", "kind", "says"),
    [
        (_refused("ThrottlingException"), NotNow, "no time"),
        (_refused("Whatever", status=503), NotNow, "no time"),
        (ConnectTimeoutError(endpoint_url="x"), NotNow, "In a private network the function needs a way out"),
        (_refused("AccessDeniedException", "not authorized to perform: ssm:GetParameters"), Failed, "serverless deploy"),
        (_refused("AccessDeniedException", "not authorized to perform: kms:Decrypt"), Failed, "kms-key=ARN"),
        (_refused("InvalidKeyId", "the key is disabled"), Failed, "the key is disabled"),
        (NoCredentialsError(), Failed, "role"),
    ],
)
def test_what_fails_is_told_once_and_not_asked_again_at_once(
    store: Store, error: Exception, kind: type[TierkeeperError], says: str
) -> None:
    store.fails, secrets = error, store.secrets
    for _ in range(2):
        with pytest.raises(kind, match=says) as told:
            secrets.over(AT_AWS)
        assert type(told.value) is kind
        assert "/tierkeeper/dev/" in told.value.place
    assert len(store.asked) == 1
    store.fails, store.now = None, store.now + FAILED_SECONDS
    assert secrets.over(AT_AWS)["CORE_SUPABASE_URL"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("TIERKEEPER_PARAMETERS", "tierkeeper/dev/"),
        ("TIERKEEPER_PARAMETERS", "/tierkeeper/dev"),
        ("TIERKEEPER_PARAMETERS", "/"),
        ("TIERKEEPER_PARAMETERS", ""),
        ("TIERKEEPER_PARAMETER_NAMES", "CORE_SUPABASE_URL,A B"),
        ("TIERKEEPER_PARAMETER_NAMES", "../prod/TOKEN"),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_asked(store: Store, name: str, value: str) -> None:
    with pytest.raises(UsageError) as told:
        store.secrets.over({**AT_AWS, name: value})
    assert told.value.place == name
    assert store.asked == []


def test_what_comes_between_two_pages_takes_nothing_half(store: Store) -> None:
    """Either all secrets are of one reading, or those before stay."""
    store.holds = {f"/tierkeeper/dev/N{i}": "old" for i in range(23)}
    secrets, environ = store.secrets, {**AT_AWS, "TIERKEEPER_PARAMETER_NAMES": NAMES}
    secrets.over(environ)
    store.holds = dict.fromkeys(store.holds, "new")
    store.now += REREAD_SECONDS
    ask: Callable[..., Any] = store.get_parameters

    def ends(**asked: Any) -> Any:
        if len(store.asked) == 4:
            store.fails = _refused("ThrottlingException")
        return ask(**asked)

    store.get_parameters = ends  # type: ignore[method-assign]
    assert {secrets.over(environ)[f"N{i}"] for i in range(23)} == {"old"}
