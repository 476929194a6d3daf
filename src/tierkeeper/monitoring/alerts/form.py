"""How the memory of alerts is written down: JSON, with its own version; an older one stays readable."""

from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from tierkeeper.monitoring.alerts import machine
from tierkeeper.monitoring.alerts.model import State

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_VERSION: Final = 1


class AlertForm:
    """Implements `memory.Form`."""

    name = "alerts"

    @cached_property
    def _adapter(self) -> "TypeAdapter[State]":
        from pydantic import TypeAdapter

        return TypeAdapter(State)

    def empty(self) -> State:
        return State()

    def dump(self, document: State) -> dict[str, Any]:
        return {"version": _VERSION, **self._adapter.dump_python(document, mode="json")}

    def parse(self, data: Any) -> State:
        """Raises ValueError for what is no such document, or of a version to come."""
        if not isinstance(data, dict) or data.get("version") != _VERSION:
            raise ValueError("not a memory of alerts that is known here")
        return self._adapter.validate_python({k: v for k, v in data.items() if k != "version"}, strict=False)

    def merge(self, main: State, here: State) -> State:
        return machine.merge(main, here)
