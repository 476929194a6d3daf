"""How a person sees what a server shows of itself, and says whether to believe it. What is shown are the server's own words."""

import re
import sys
from collections.abc import Iterator, Sequence
from typing import Final

from rich.text import Text

from tierkeeper.cli import output
from tierkeeper.cli.values import visible
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.results import CertificateResult
from tierkeeper.postgres.trust import spelled, whence
from tierkeeper.setup.trusting import Confirmable

_TIERS: Final = ("core", "main", "archive")
_YES: Final = ("y", "yes")


def given(texts: Sequence[str]) -> dict[str, str]:
    """`core=SHA256` as fingerprints (64 digits) by tier, however they are written. Raises UsageError."""
    found: dict[str, str] = {}
    for text in texts:
        tier, _, digits = text.partition("=")
        sha256 = re.sub(r"[:\s]", "", digits).lower().removeprefix("sha256")
        if tier not in _TIERS or not re.fullmatch(r"[0-9a-f]{64}", sha256):
            cause = f"{text[:100]!r} is no tier with a fingerprint"
            raise UsageError(
                "--trust", cause, "Write --trust core=SHA256, with main or archive for the others, as `check` shows it"
            )
        if tier in found:
            raise UsageError("--trust", f"{tier} is given twice", "Give one fingerprint for each tier")
        found[tier] = sha256
    return found


def is_there(*, as_json: bool) -> bool:
    """Whether a person can be asked: who reads JSON is none."""
    return not as_json and sys.stdin.isatty() and sys.stderr.isatty()


def confirmed(one: Confirmable) -> bool:
    """Asks, on the terminal. Whoever says nothing says no."""
    err = output.console(stderr=True)
    for server in one.shown:
        err.print(Text.assemble((f"{visible(server.place)}", "bold"), f" {visible(server.cause)}"), soft_wrap=True)
    for text in shown([output.certificate(c) for c in one.shown[0].chain]):
        err.print(text, soft_wrap=True)
    err.print(Text(f"Compare the fingerprint with {whence(one.shown[0].link)}."), soft_wrap=True)
    err.print(
        Text("That authority may vouch for any name; it is believed for these tiers alone, at these hosts."), soft_wrap=True
    )
    where = " and ".join(f"{server.link.tier} at {visible(server.link.host)}" for server in one.shown)
    sys.stderr.write(f"Believe SHA-256 {spelled(one.authority.sha256)} for {where}? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in _YES


def shown(chain: Sequence[CertificateResult]) -> Iterator[Text]:
    """A chain, a certificate after the other, the server's own first."""
    for number, one in enumerate(chain):
        head = "shown   " if number == 0 else "        "
        yield Text.assemble((head, "dim"), visible(one.subject))
        yield Text(f"        issued by {visible(one.issuer)}, valid until {one.valid_until:%Y-%m-%d %H:%M} UTC", "dim")
        yield Text(f"        SHA-256 {spelled(one.sha256)}")
