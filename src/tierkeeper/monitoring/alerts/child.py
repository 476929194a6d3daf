"""Hands messages to Apprise, in a process of its own: `python -m tierkeeper.monitoring.alerts.child`.

Apprise and what it uses log addresses, which are secrets, print as they like and cannot be interrupted. Here nobody hears them,
and whoever started this ends it when its time is over. Asked by one JSON document on stdin; answers by a JSON line for each
target as soon as it is through: `look` reaches none of them, `send` each, `test` each if all are addresses. What it says of a
failure are words of its own, so that no address can be in them.
"""

import json
import logging
import os
import re
import sys
import threading
import time
from typing import Any, Final, TextIO

_CAUSES: Final = (
    (r"CERTIFICATE_VERIFY_FAILED|certificate verify failed", "its certificate is not trusted"),
    (r"WRONG_VERSION_NUMBER|record layer failure", "it does not speak TLS"),
    (r"Connection refused", "nobody listens there (connection refused)"),
    (
        r"Name or service not known|nodename nor servname|Temporary failure in name resolution|getaddrinfo",
        "its name is not known",
    ),
    (r"timed out|timeout", "it does not answer in time"),
    (r"SMTPAuthenticationError|\b535\b", "it refuses the user or the password"),
    (r"SMTPRecipientsRefused|was refused|: \(55[0-4], ", "it refuses the recipient"),
    (r"STARTTLS extension not supported", "it does not offer STARTTLS, which mode=starttls asks for"),
    (r"Network is unreachable|No route to host", "there is no way to it (network unreachable)"),
)
"""What Apprise's own words for a failure come to. The first that matches is told."""
_FINAL: Final = frozenset(
    ("its certificate is not trusted", "it does not speak TLS", "it refuses the user or the password", "it refuses the recipient")
)
_OTHER: Final = "Apprise could not deliver it"


def main() -> None:
    """Reads the question, answers it, ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(nowhere, stream)
    logging.getLogger("apprise").setLevel(logging.DEBUG)  # what a failure comes from, it says there alone
    asked = json.loads(sys.stdin.read())
    if asked["op"] == "test" and not all(_look(target["url"])["ok"] for target in asked["targets"]):
        asked["op"] = "look"
    lock = threading.Lock()
    threads = [
        threading.Thread(target=_one, args=(number, target, asked, answers, lock), daemon=True)
        for number, target in enumerate(asked["targets"])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answers.flush()
    os._exit(0)  # nothing that a library has left running keeps it


def _one(number: int, target: dict[str, Any], asked: dict[str, Any], answers: TextIO, lock: threading.Lock) -> None:
    try:
        told = _look(target["url"]) if asked["op"] == "look" else _send(target, asked["tries"], asked["wait_seconds"])
    except Exception:  # noqa: BLE001 - its message may quote the address
        told = {"ok": False, "cause": _OTHER, "tries": 1}
    with lock:
        answers.write(json.dumps({"target": number, **told}) + "\n")
        answers.flush()


def _look(url: str) -> dict[str, Any]:
    """Whether Apprise knows what to do with an address; `plain`: others can read along, `trusting`: it checks no certificate."""
    from apprise.manager_plugins import NotificationManager

    schema = url.partition("://")[0].lower()
    service = _service(url)
    if service is None:
        return {"ok": False, "looked": True, "cause": "form" if schema in NotificationManager() else "scheme"}  # type: ignore[no-untyped-call]
    host = str(getattr(service, "smtp_host", None) or service.host or "")
    local = host in ("localhost", "127.0.0.1", "::1", "[::1]")
    secure = bool(service.secure) or getattr(service, "secure_mode", None) in ("ssl", "starttls")
    may_be_plain = (bool(service.secure_protocol) and bool(service.protocol)) or hasattr(service, "secure_mode")
    return {
        "ok": True,
        "looked": True,
        "cause": "",
        "plain": may_be_plain and not secure and not local,
        "trusting": not service.verify_certificate,
    }


def _service(url: str) -> Any:
    """Apprise's service for an address; None where it knows none."""
    import apprise

    asset = apprise.AppriseAsset(app_id="tierkeeper", app_desc="tierkeeper", app_url="", storage_mode="memory")
    return apprise.Apprise.instantiate(url, asset=asset)


def _send(target: dict[str, Any], tries: int, wait_seconds: float) -> dict[str, Any]:
    import apprise

    cause, number = _OTHER, 0
    for number in range(1, tries + 1):
        service = _service(target["url"])  # a new one: Apprise makes one that has failed wait between two requests
        if service is None:
            return {"ok": False, "cause": "it is no address that Apprise knows", "tries": number}
        if "overflow=" not in target["url"]:
            service.overflow_mode = apprise.OverflowMode.SPLIT
        sender = apprise.Apprise(service)
        result = sender.notify(
            body=target["body"],
            title=target["title"],
            notify_type=target["tone"],
            body_format=apprise.NotifyFormat.TEXT,
            log_level=logging.DEBUG,
        )
        if result:
            return {"ok": True, "cause": "", "tries": number}
        cause = _cause("\n".join(entry.message for entry in result.logs()))
        if number == tries or _is_final(cause):
            break
        time.sleep(wait_seconds * 2 ** (number - 1))
    return {"ok": False, "cause": cause, "tries": number}


def _is_final(cause: str) -> bool:
    """Whether the same message a moment later would meet with the same refusal."""
    return cause in _FINAL or (re.fullmatch(r"it answers 4\d\d", cause) is not None and not cause.endswith(("408", "425", "429")))


def _cause(said: str) -> str:
    for pattern, cause in _CAUSES:
        if re.search(pattern, said):
            return cause
    status = re.search(r"\berror=(\d{3})\b", said)
    return f"it answers {status[1]}" if status else _OTHER


if __name__ == "__main__":
    main()
