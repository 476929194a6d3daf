"""A key in this user's keyring: the desktop's or the system's, as the library `keyring` finds it. Its file says where.

Keyrings raise errors of many libraries, and all of them mean the same here: it does not open, or takes nothing. An entry is
never changed: another key has another name, so that a file and what it names fit together, whenever a kill comes.
"""

from contextlib import suppress
from typing import TYPE_CHECKING, Final

from tierkeeper.kernel.errors import Failed, UsageError

if TYPE_CHECKING:
    from types import ModuleType

_MAGIC: Final = "tierkeeper-keyring"
_SERVICE: Final = "tierkeeper"
_PLACE: Final = "keyring"
_known: dict[str, str] = {}  # what an entry holds, by its name: a run opens its key for each segment


def is_pointer(text: str) -> bool:
    """Whether the text of a key file only says which entry of the keyring holds it."""
    return _name(text) is not None


def plain(text: str, place: str) -> str:
    """The text of a key file, from the keyring where it lies there. Raises UsageError, naming `place`, where it does not."""
    name = _name(text)
    if name is None:
        return text
    if name not in _known:
        keyring = _library()
        try:
            held = keyring.get_password(_SERVICE, name)
        except Exception as error:
            raise UsageError(
                place, f"the keyring does not open ({_said(error)})", "Unlock it, as the user whose it is"
            ) from error
        if held is None:
            remedy = "Run as the user whose keyring it is; if the entry is lost, put the recovery key's text into TIERKEEPER_KEY"
            raise UsageError(place, f"the keyring holds no entry {name} of {_SERVICE}", remedy)
        _known[name] = held
    return _known[name]


def kept(text: str, name: str) -> str:
    """Puts `text` into the keyring as `name`, reads it back, and returns what its file has to say. Raises UsageError, Failed."""
    keyring, remedy = _library(), "Nothing was changed; a passphrase needs no keyring: `tierkeeper keys protect`"
    try:
        keyring.set_password(_SERVICE, name, text)
        held = keyring.get_password(_SERVICE, name)
    except Exception as error:
        raise UsageError(_PLACE, f"it takes no key ({_said(error)})", remedy) from error
    if held != text:
        raise Failed(_PLACE, "it does not give back what was put into it", remedy)
    return f"# The key lies in the keyring of this user, as an entry of {_SERVICE}.\n{_MAGIC}: {name}\n"


def forget(text: str, own: str) -> None:
    """Takes the entry that a file of before named out of the keyring, if that ends with `own`; one that stays opens what it did.

    A copy of such a file, in another folder, names the same entry, and may have nothing else.
    """
    name = _name(text)
    if name is not None and name.endswith(own):
        keyring = _library()
        _known.pop(name, None)
        with suppress(Exception):
            keyring.delete_password(_SERVICE, name)


def _name(text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    magic, _, name = lines[0].partition(":") if len(lines) == 1 else ("", "", "")
    return name.strip() if magic == _MAGIC else None


def _said(error: Exception) -> str:
    return str(error).partition("\n")[0][:200] or type(error).__name__


def _library() -> "ModuleType":
    try:
        import keyring
        import keyring.errors
    except ImportError as error:
        raise UsageError(_PLACE, "its library is not installed", "Run: pip install 'tierkeeper[keyring]'") from error
    return keyring
