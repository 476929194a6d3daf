"""What `tierkeeper archive restore` asks for: where rows may go, and what the audit is told."""

from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from datetime import datetime
from functools import cached_property, partial
from weakref import finalize

from tierkeeper.compose.moving import MovingKeeper
from tierkeeper.kernel.errors import NotNow, UsageError
from tierkeeper.kernel.limits import KEPT_SECONDS
from tierkeeper.kernel.policy import OnConflict, Tier
from tierkeeper.kernel.results import RestoreResult
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.keeping import beside, lent_by
from tierkeeper.postgres.lending import Lender
from tierkeeper.postgres.link import Link, translated
from tierkeeper.tiers import identity, profile, usage


class RestoringKeeper(MovingKeeper):
    """Gives archived rows to tables and files; the archive keeps them."""

    def archive_restore(
        self,
        table: TableName,
        *,
        to: str,
        since: datetime | None = None,
        until: datetime | None = None,
        segment: str | None = None,
        keys: Sequence[str] = (),
        on_conflict: OnConflict | None = None,
        tier: Tier | None = None,
        on: str | None = None,
    ) -> RestoreResult:
        """Rows of the archive in a table of `tier` (Main if left out) or of the server whose URL is `on`, or as a file.

        `keys`: of the rows with these alone; each a value, or for a key of several columns a JSON array in their order.
        A table that exists takes them only where `on_conflict` says what becomes of those whose key it has. What changes no tier
        needs none but the archive: no audit record is written where Main is away.
        """
        from tierkeeper.archive.keyed import Keys
        from tierkeeper.archive.restore import names_a_file

        wanted = Keys.parse(keys) if keys else None
        is_file = names_a_file(to)
        if is_file and on_conflict is not None:
            raise UsageError("--on-conflict", "a file holds no rows before", "Leave it out, or name a table")
        if on is not None and (is_file or tier is not None):
            other = "--to" if is_file else "--tier"
            raise UsageError(f"--on, {other}", "both say where the rows go", "Give --on with a table's name alone")
        target = Link("--on", on) if on is not None else self.links[tier or "main"]
        if not is_file:
            _check_writable(target)
        shown = target.shown if on is not None else None
        detail: dict[str, object] = {
            "to": to,
            "tier": None if is_file or on else target.tier,
            "on": shown,
            "on_conflict": on_conflict,
        }
        detail |= {"since": since, "until": until, "segment": segment, "keys": len(keys) or None}
        with ExitStack() as stack:
            if is_file:
                stack.enter_context(lent_by(self._lender))
            # Looking changes nothing: it need not wait until the intent is durable.
            look = partial(self.archive.selected, table, since=since, until=until, segment=segment, keys=wanted)
            selected = stack.enter_context(beside(look))
            note = None
            try:
                note = stack.enter_context(self._audit.action("restore", str(table), detail))
            except NotNow:
                if not is_file and on is None:
                    raise
            result = self.archive.restore(
                table,
                to=to,
                target=target,
                on_conflict=on_conflict,
                managed=lambda: self._counted(target),
                selected=selected,
            )
            if note is not None:
                note(rows=result.rows, inserted=result.inserted, skipped=result.skipped, replaced=result.replaced)
        missed = len({*wanted.wanted}) - result.rows if wanted is not None else 0
        said = f"{missed} of the keys are not among these rows: they are compared as Postgres writes them"
        notes = [*result.notes, said] if missed > 0 else result.notes
        return result.model_copy(update={"on": shown, "notes": notes})

    @cached_property
    def _lender(self) -> Lender:
        """Of the connections over which a file's rows are looked for and audited, which takes less than to dial them."""
        lender = Lender("restore", spare_seconds=KEPT_SECONDS)
        finalize(self, lender.close)
        return lender

    def _counted(self, target: Link) -> set[TableName]:
        """The tables of which `query` counts the rows that lie at `target`."""
        if target.place == "--on" and not self._is_a_tier(target):
            return set()
        return {*(p.name for p in self._policies), *self.archive.tables()}

    def _is_a_tier(self, target: Link) -> bool:
        """Whether the database at `target` is Core or Main by another address."""
        found = _identity(target)
        if found.roles.keys() & {"core", "main"}:
            return True
        for tier in ("core", "main"):
            with suppress(NotNow):  # its server does not answer, and this one does
                if _identity(self.links[tier]).database == found.database:
                    return True
        return False


def _identity(link: Link) -> identity.Identity:
    with translated(link.place), closing(link.connect("restore")) as conn:
        return identity.read(conn)


def _check_writable(target: Link) -> None:
    """Raises UsageError or NotNow where nothing may be written there."""
    with translated(target.place), closing(target.connect("restore")) as conn:
        refused = usage.refusal(usage.measure(conn, profile.SELF_HOSTED), target.place, gives_only=False)
    if refused is not None:
        raise refused
