"""The process that speaks to Apprise gets its messages and addresses on stdin, and of this one's environment what it needs."""

import subprocess
from typing import Any, Self

import pytest

from tierkeeper.monitoring.alerts import sending
from tierkeeper.monitoring.alerts.sending import Target, look


class Recorded:
    """A child that ends at once, and what it was given."""

    environment: dict[str, str]

    def __init__(self, *_: object, env: dict[str, str], **__: object) -> None:
        type(self).environment = env

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def communicate(self, *_: Any, **__: Any) -> tuple[str, str]:
        return "", ""


def test_no_secret_of_the_environment_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = {
        "PATH": "/bin",
        "https_proxy": "http://proxy",
        "LC_ALL": "C",
        "SSL_CERT_FILE": "/ca.pem",
        "PYTHONWARNINGS": "ignore",
    }
    secrets = ("TIERKEEPER_KEY", "TIERKEEPER_PASSPHRASE", "HOME_SERVER_TOKEN", "CORE_SUPABASE_URL", "PGPASSWORD",
               "AWS_SECRET_ACCESS_KEY", "ALERT_URL")  # fmt: skip
    monkeypatch.setattr(sending.os, "environ", {**needed, **dict.fromkeys(secrets, "secret")})
    monkeypatch.setattr(subprocess, "Popen", Recorded)
    look([Target(0, "json://localhost")])
    Recorded.environment.pop("PYTHONPATH")
    assert Recorded.environment == needed
