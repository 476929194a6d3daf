"""Messages reach real receivers through Apprise; one that does not hear keeps no other, and no address shows anywhere."""

import logging
import socket
import time
from pathlib import Path

import pytest

from receivers import http_receiver, smtp_receiver
from support import Command, Tiers, tierkeeper_toml
from tierkeeper.cli.app import run
from tierkeeper.demo.certificates import issue
from tierkeeper.monitoring.alerts.messages import Message
from tierkeeper.monitoring.alerts.sending import AppriseSender, Target, look

MESSAGE = Message("tierkeeper: core & <main>", "first line\nWhy: 88% of 500 MB <b>.\nDo now: Run `tierkeeper quota`.", "warning")
SECRETS = ("s3cr3t-pass", "s3cr3t-path")


def test_each_target_is_tried_by_itself_over_http_tls_and_smtp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificates = issue(tmp_path / "certificates")
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.ca_file))
    with (
        http_receiver() as good,
        http_receiver() as bad,
        http_receiver(certificates) as secure,
        smtp_receiver() as (mail_url, mails),
        socket.create_server(("127.0.0.1", 0)) as silent,  # takes the request, and never answers
    ):
        bad.status = 500
        urls = [
            f"json://127.0.0.1:{silent.getsockname()[1]}/?rto=60",
            bad.url,
            good.url,
            secure.url.replace("json://", "jsons://"),
            mail_url,
        ]
        began = time.monotonic()
        found = AppriseSender(tries=2, wait_seconds=0.1, seconds=4).send({Target(i, u): MESSAGE for i, u in enumerate(urls)})
    assert time.monotonic() - began < 8
    assert [d.cause for d in found] == ["it was not through in 4 seconds", "it answers 500", None, None, None]
    assert [d.target.name for d in found][-2:] == ["alerts.notify[3] (jsons)", "alerts.notify[4] (mailto)"]
    assert (bad.tried, found[1].tries) == (2, 2)
    assert [(one["title"], one["message"]) for one in (*good.got, *secure.got)] == [(MESSAGE.title, MESSAGE.body)] * 2
    (mail,) = mails
    assert (mail["Subject"], mail["To"]) == (MESSAGE.title, "person@example.com")
    plain = mail.get_body(("plain",))
    assert plain is not None
    assert plain.get_content().splitlines()[:3] == MESSAGE.body.splitlines()


def test_a_certificate_that_nobody_vouches_for_gets_nothing(tmp_path: Path) -> None:
    with http_receiver(issue(tmp_path / "certificates")) as receiver:
        url = receiver.url.replace("json://", "jsons://")
        (found,) = AppriseSender(tries=1).send({Target(0, url): MESSAGE})
    assert found.cause == "its certificate is not trusted"
    assert receiver.tried == 0


def test_what_is_no_address_is_told_by_its_place_alone() -> None:
    urls = (
        "json://127.0.0.1/x",
        f"nosuch://{SECRETS[0]}@host/",
        f"slack://{SECRETS[0]}",
        SECRETS[0],
        "json://example.com/?verify=no",
    )
    errors, notes = look([Target(i, url) for i, url in enumerate(urls)])
    assert [e.place for e in errors] == ["alerts.notify[1]", "alerts.notify[2]", "alerts.notify[3]"]
    assert not any(secret in str(e) for e in errors for secret in SECRETS)
    assert [n.partition(":")[0] for n in notes] == ["alerts.notify[4] (json)"] * 2


@pytest.fixture
def notified(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> Tiers:
    monkeypatch.setenv("XDG_STATE_HOME", str(tiers.home / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tiers.home / ".config"))
    monkeypatch.chdir(tiers.home)
    return tiers


def test_the_test_command_says_who_was_reached_and_shows_no_secret(
    notified: Tiers, ask: Command, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(1)
    logging.getLogger("apprise").setLevel(1)
    with http_receiver() as good, http_receiver() as bad:
        bad.status = 403
        tierkeeper_toml(notified, extra=f'[alerts]\nnotify = ["{good.url}"]')
        assert ask("alert", "test") == {
            "ok": True,
            "targets": [{"target": "alerts.notify[0] (json)", "ok": True, "tries": 1, "cause": None}],
        }
        assert good.got[0]["auth"].startswith("Basic ")
        tierkeeper_toml(notified, extra=f'[alerts]\nnotify = ["{good.url}", "{bad.url}?retry=0"]')
        assert run(["alert", "test", "--debug", "--verbose"]) == 1
    out, err = capfd.readouterr()
    assert "alerts.notify[0] (json) has got it" in out
    assert "it answers 403" in out
    logged = "".join(record.getMessage() for record in caplog.records)
    assert not any(secret in text for secret in SECRETS for text in (out, err, logged))


def test_nobody_to_tell_and_no_address_are_faults_of_the_configuration(notified: Tiers, ask: Command) -> None:
    tierkeeper_toml(notified)
    assert ask("alert", "test", code=2)["error"]["place"] == "alerts.notify"
    tierkeeper_toml(notified, extra=f'[alerts]\nnotify = ["json://127.0.0.1/", "nosuch://{SECRETS[0]}/"]')
    for command in (("alert", "test"), ("check",)):
        error = ask(*command, code=2)["error"]
        assert error["place"] == "alerts.notify[1]"
        assert SECRETS[0] not in str(error)
    tierkeeper_toml(
        notified, extra='[alerts]\nquiet = "22-7"\ntimezone = "Mars/Olympus"\nremind = "1 minute"\nquiet_urgent = "no"'
    )
    places = {e["place"].partition(": ")[2] for e in ask("check", code=2)["error"]}
    assert places == {f"alerts.{key}" for key in ("quiet", "timezone", "remind", "quiet_urgent")}
