"""Whose server an error was met at: the driver's errors do not say, and a move has two."""

from typing import Final

import psycopg

_MET_AT: Final = "met at: "


def note(error: BaseException, label: str) -> None:
    """Notes with an error of the driver's that it was met at the server called `label`."""
    if isinstance(error, psycopg.Error) and label:
        error.add_note(_MET_AT + label)


def placed(error: BaseException, place: str) -> str:
    """`place` with the server that was noted, where it does not name one by itself. Pure."""
    met = next((n.removeprefix(_MET_AT) for n in getattr(error, "__notes__", ()) if n.startswith(_MET_AT)), "")
    return f"{place} ({met})" if met and "(" not in place and not place.startswith(("tiers.", "-")) else place
