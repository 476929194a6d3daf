"""Confirms and pins the authorities of the tiers' servers, before anything else goes over their links."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from typing import TYPE_CHECKING, Final

from tierkeeper.compose.wiring import Wiring
from tierkeeper.config import folder
from tierkeeper.kernel.errors import Faults, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.results import SetupResult, TrustedResult
from tierkeeper.postgres import pins
from tierkeeper.postgres.certificates import Shown
from tierkeeper.postgres.trust import Untrusted, may_be_pinned, spelled
from tierkeeper.security.audit import NoTrailYet, PostgresAudit, actor
from tierkeeper.setup.trusting import Confirmable, decide, in_order
from tierkeeper.tiers.ask import ask_all

if TYPE_CHECKING:
    from tierkeeper.compose.moving import MovingKeeper

_VERB: Final = "trust"
Ask = Callable[[Confirmable], bool]
"""Puts it to a person, who has compared the fingerprint or has not."""


class TrustingKeeper(Wiring):
    """Pins what was confirmed. Its own links stay as they were: another keeper finds the pins."""

    def trust(self, given: Mapping[str, str], ask: Ask | None) -> list[TrustedResult]:
        """Pins the authorities of servers that are not believed: those `given` by tier (SHA-256), and those confirmed by `ask`.

        Nothing but handshakes is made with such a server (I6). Raises Faults, before anything is changed, where one may not be
        pinned or is not confirmed, and where another tier is not reached.
        """
        untrusted = self._untrusted(given)
        if not untrusted and not given:
            return []
        links = {str(tier): link for tier, link in self.links.items()}
        believed = [tier for tier in given if tier not in {one.link.tier for one in untrusted}]
        known = {tier: pins.pinned(pin).sha256 if (pin := pins.in_force(links[tier])) is not None else None for tier in believed}
        decision = decide(untrusted, given, known)
        faults = [*decision.faults, *(one for c in decision.asked for one in c.shown if ask is None)]
        if faults:
            raise Faults(faults)
        if untrusted and not self._disk_lasts:
            cause = "this host has no lasting disk, so that a pinned authority would be forgotten"
            remedy = f"Put the authority's certificate into a file, and name it in sslrootcert under [{untrusted[0].link.place}]"
            raise UsageError(untrusted[0].place, cause, remedy)
        for one in decision.asked:
            if ask is not None and not ask(one):
                cause = f"the authority SHA-256 {spelled(one.authority.sha256)} was not confirmed"
                raise UsageError(one.shown[0].place, cause, f"Nothing was changed. {one.shown[0].remedy}")
        return [self._pin(*pair) for pair in in_order((*decision.confirmed, *decision.asked))]

    def note_pins(self) -> None:
        """Gives the audit what it lacks of the pins in force: it could not have it while there was none, or no way to it (I7)."""
        for tier, link in self.links.items():
            pin = pins.in_force(link)
            if pin is None:
                continue
            seen = {"host": link.host, "sha256": pins.pinned(pin).sha256}
            if not self._audit.intended(_VERB, tier, seen):
                with self._audit.action(_VERB, tier, {**seen, "noted_late": True}):
                    pass

    def _untrusted(self, given: Mapping[str, str]) -> list[Untrusted]:
        """The servers that are not believed. Raises Faults where there are some, or `given`, and a tier is not reached at all."""
        links = {str(tier): link for tier, link in self.links.items()}
        first = {tier: link for tier, link in links.items() if may_be_pinned(link) or tier in given}
        rest = {tier: link for tier, link in links.items() if tier not in first}
        with self._hints.asking_anew():
            away = ask_all(first, _nothing, "setup")[1]
            found = [error for error in away.values() if isinstance(error, Untrusted)]
            if found or given:
                away |= ask_all(rest, _nothing, "setup")[1]
        others = [error for error in away.values() if not isinstance(error, Untrusted)]
        if others and (found or given):
            raise Faults([*found, *others])
        return found

    def _pin(self, untrusted: Untrusted, authority: Shown) -> TrustedResult:
        """I7: the audit has it before, unless there is none yet: what makes the audit goes over the link that this is for."""
        link = untrusted.link
        path = pins.file_of(self._config_dir, link)
        replaced = untrusted.pinned.sha256 if untrusted.pinned is not None else None
        with ExitStack() as stack:
            if link.tier != "main":
                main = self._settings.links(folder.pins(self._environment))["main"]
                detail = {"host": link.host, "sha256": authority.sha256, "replaced": replaced}
                with suppress(NoTrailYet):
                    stack.enter_context(PostgresAudit(main).action(_VERB, link.tier, detail))
            pins.write(path, link, authority, self._clock.now(), actor())
            reach(Point.AUTHORITY_PINNED)
        return TrustedResult(tier=link.tier, host=link.host, sha256=authority.sha256, file=str(path), replaced=replaced)


def set_up(
    keepers: Callable[[], "AbstractContextManager[MovingKeeper]"], given: Mapping[str, str], ask: Ask | None
) -> SetupResult:
    """Pins first, then makes all that is missing, over links that are verified. Raises as `trust` and `setup` do."""
    with keepers() as keeper:
        trusted = keeper.trust(given, ask)
    with keepers() as keeper:
        made = keeper.setup(True)
        keeper.note_pins()
    return made.model_copy(update={"trusted": trusted})


def _nothing(*_: object) -> None:
    """Whoever gets a connection is believed."""
