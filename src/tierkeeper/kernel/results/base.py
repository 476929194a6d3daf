"""What all results have in common, and how errors are told."""

from collections.abc import Iterable
from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from tierkeeper.kernel.errors import Exit, TierkeeperError, each


class Result(BaseModel):
    """Base of all results: frozen, closed, printed by alias."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, serialize_by_alias=True, defer_build=True)


class ErrorResult(Result):
    """One fault: where, why, what to do."""

    place: str
    cause: str
    remedy: str


class FaultResult(ErrorResult):
    """A fault that the rest of a run went on without."""

    not_now: bool = Field(default=False, description="nothing failed: the same command may do it later (exit 75)")


def told(errors: Iterable[TierkeeperError]) -> list[FaultResult]:
    """`errors` as results, those that were found together one by one."""
    return [FaultResult(place=e.place, cause=e.cause, remedy=e.remedy, not_now=e.exit_code is Exit.NOT_NOW) for e in each(errors)]


class CertificateResult(Result):
    """A certificate that a server showed. Its words are the server's, and prove nothing."""

    subject: str
    issuer: str
    valid_until: datetime
    sha256: str = Field(description="its fingerprint: the SHA-256 of the whole certificate, 64 hexadecimal digits")


class UntrustedResult(ErrorResult):
    """A server of a tier that nobody vouches for who is known here; nothing was sent to it."""

    tier: str
    host: str
    chain: list[CertificateResult] = Field(description="what it showed: its own certificate first, its authority's last")
    authority: str | None = Field(
        description="the fingerprint that `setup --apply --trust TIER=SHA256` takes; null: confirming it would not help"
    )
    pinned: str | None = Field(description="the fingerprint of the authority that was confirmed before; null: none was")


class ErrorDocument(Result):
    """What `--json` prints for an error; a list where several faults were found at once."""

    error: UntrustedResult | ErrorResult | list[UntrustedResult | ErrorResult]
