"""Why a server is not believed, and what would have to be confirmed for it: said of the chain that it shows.

It must not believe anybody itself: only `pins`, for which a person has confirmed a fingerprint, makes a link verify another way.
"""

from collections.abc import Sequence
from typing import Final

from tierkeeper.kernel.errors import TierkeeperError, UsageError
from tierkeeper.postgres import certificates, handshake, pins
from tierkeeper.postgres.certificates import Shown
from tierkeeper.postgres.handshake import Refusal
from tierkeeper.postgres.link import Link, UnverifiedError

_SUBJECT_MAX: Final = 200  # characters of a name that the peer chose, within a sentence of ours
_EXACTLY: Final = "`openssl x509 -noout -sha256 -fingerprint -in FILE`"
_SUPABASE: Final = (
    "that of the certificate which Supabase's dashboard lets you download (Database Settings, SSL Configuration; "
    f"{_EXACTLY} shows it)"
)
_ELSEWHERE: Final = "what your provider's dashboard or documents say, or whoever runs the server"
_NAMED: Final = "name its file in sslrootcert"
_CORRECT: Final = "Correct the host in the URL; else have the server's certificate renewed, or made for that host"


class Untrusted(UnverifiedError):  # noqa: N818 - as NotNow
    """A server that no authority vouches for that is known here. `chain` is what it showed, its own certificate first.

    `authority`, the topmost, may be confirmed; None: no confirmation would help. `pinned` is the authority confirmed before.
    """

    def __init__(
        self, error: UsageError, *, link: Link, chain: Sequence[Shown], authority: Shown | None, pinned: Shown | None
    ) -> None:
        super().__init__(error.place, error.cause, error.remedy)
        self.link = link
        self.chain, self.authority, self.pinned = tuple(chain), authority, pinned


def may_be_pinned(link: Link) -> bool:
    """Whether a pin counts for `link`: a tier's, which is verified, and whose authority its user has not named."""
    return not link.tier.startswith("-") and certificates.is_verified(link) and not link.names_authority


def explained(link: Link, error: TierkeeperError) -> TierkeeperError:
    """`error`, by which libpq did not believe the server, with what the server shows; only handshakes are made for it.

    As it is where a pin would not count, or nothing is shown.
    """
    if not may_be_pinned(link):
        return error
    given, place = link.parameters, error.place
    try:
        pinned = None if link.pin is None else pins.pinned(link.pin)
        chain = certificates.read(handshake.shown(given, place))
        refused = handshake.refused(given, place, None if pinned is None else pinned.der)
        if not chain or refused is None:
            return error
        if not refused.is_trust:
            told = UsageError(place, f"its certificate is not good for this link: {refused.words}", _CORRECT)
            return Untrusted(told, link=link, chain=chain, authority=None, pinned=None)
        return judged(link, place, chain, handshake.refused(given, place, chain[-1].der), pinned)
    except UsageError as other:
        return other
    except (TierkeeperError, OSError, ValueError):
        return error


def judged(link: Link, place: str, chain: Sequence[Shown], refused: Refusal | None, pinned: Shown | None) -> Untrusted:
    """What is to be said of a `chain` that leads to no authority known here. Pure.

    `refused`: why its own topmost certificate would not vouch for it; None where it would. `pinned`: who should have.
    """
    top = chain[-1]
    alone = len(chain) == 1 and not top.signs_itself
    who = f"{short(top.subject)}, SHA-256 {spelled(top.sha256)}"
    if alone:
        cause = f"it shows its own certificate alone, signed by {short(top.issuer)}, which is not known here"
    elif len(chain) == 1:
        cause = f"its certificate is signed by nobody but itself: {who}"
    else:
        cause = f"its authority is not known here: {who}"
        cause += "" if top.signs_itself else f"; the one above it, {short(top.issuer)}, is not shown"
    if pinned is not None:
        cause = f"it is not vouched for by the pinned authority, SHA-256 {spelled(pinned.sha256)}; {cause}"
    if alone:
        remedy = f"Get that authority's certificate and {_NAMED}, or have the server show it behind its own"
    elif refused is not None:
        cause, remedy = f"{cause}; and it would not do: {refused.words}", _CORRECT
    else:
        remedy = (
            f"Compare the fingerprint with {whence(link)}. Only if it is the same: `tierkeeper setup --apply` asks to confirm "
            f"it, or add --trust {link.tier}={top.sha256}. Or {_NAMED}"
        )
    if pinned is not None:
        remedy = f"Somebody may be in between. {remedy}. To believe the system's authorities again, delete {link.pin}"
    told = UsageError(place, cause, remedy)
    return Untrusted(told, link=link, chain=chain, authority=None if alone or refused else top, pinned=pinned)


def whence(link: Link) -> str:
    """What a person compares the fingerprint with, which came by another way than the link itself."""
    hosts = link.host.split(",")
    return _SUPABASE if any(h.endswith((".supabase.co", ".supabase.com")) for h in hosts) else _ELSEWHERE


def spelled(sha256: str) -> str:
    """64 hexadecimal digits as OpenSSL prints a fingerprint."""
    return ":".join(sha256[at : at + 2] for at in range(0, len(sha256), 2)).upper()


def short(name: str) -> str:
    """A certificate's name, within a sentence."""
    return name if len(name) <= _SUBJECT_MAX else f"{name[:_SUBJECT_MAX]}…"
