"""What a tier's markers say of a batch whose rows left it, for those who move nothing."""

from contextlib import closing
from uuid import UUID

from tierkeeper.kernel.policy import Tier
from tierkeeper.mover.source import Source
from tierkeeper.postgres.link import Link, translated


def marker(link: Link, tier: Tier, batch_id: UUID) -> str | None:
    """The marker's state in the tier that the rows leave; None where there is none. Raises NotNow where the tier is away."""
    with translated(f"tiers.{tier}"), closing(link.connect("mover")) as conn:
        return Source(link, conn, tier).marker(batch_id)


def settled(link: Link, tier: Tier, batch_id: UUID) -> str | None:
    """As `marker`, after one that was open was aborted: whoever still meant to delete the batch's rows cannot any more."""
    with translated(f"tiers.{tier}"), closing(link.connect("mover")) as conn:
        return Source(link, conn, tier).abort(batch_id)


def known(link: Link, tier: Tier, destination: Tier) -> dict[UUID, str]:
    """The settled markers of batches that left `tier` for `destination`, of those that are kept still."""
    with translated(f"tiers.{tier}"), closing(link.connect("mover")) as conn:
        return Source(link, conn, tier).markers(destination).settled
