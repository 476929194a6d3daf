"""A key file under a passphrase: age's own format (scrypt, armored), which any age program opens as well.

It must never hold a passphrase longer than the process does, nor show one.
"""

import base64
import hmac
import os
import sys
import textwrap
import threading
from collections.abc import Mapping
from getpass import getpass
from typing import Final

import pyrage
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from tierkeeper.kernel.errors import Failed, UsageError

VARIABLE: Final = "TIERKEEPER_PASSPHRASE"
_HEAD: Final = "-----BEGIN AGE ENCRYPTED FILE-----"
_WORK: Final = 17  # of scrypt, as a power of two: 128 MB and some 0.3 s for each guess, and for each command
_LENGTH_MIN: Final = 12  # fewer characters are guessed all the same
_typed: dict[str, str] = {}  # the passphrase of a text, as a person gave it: asked for once a process
_opened: dict[tuple[str, str], str] = {}  # to open one takes a while, and a run opens its key for each segment
_asking = threading.RLock()  # a person answers one question at a time, and each opening takes its memory


def is_sealed(text: str) -> bool:
    """Whether the text of a key file is under a passphrase."""
    return text.lstrip().startswith(_HEAD)


def plain(text: str, environment: Mapping[str, str], place: str) -> str:
    """The text of a key file, opened where it is under a passphrase. Raises UsageError, naming `place`, where that fails."""
    if not is_sealed(text):
        return text
    with _asking:
        passphrase = of(text, environment, place)
        if (text, passphrase) not in _opened:
            try:
                _opened[text, passphrase] = pyrage.passphrase.decrypt(text.strip().encode(), passphrase).decode("ascii")
            except (pyrage.DecryptError, ValueError):
                _typed.pop(text, None)
                raise UsageError(place, "the passphrase does not open it, or it is damaged", f"Correct {VARIABLE}") from None
        return _opened[text, passphrase]


def sealed(text: str, passphrase: str) -> str:
    """`text` under `passphrase`, which has opened it again, and does so from here on without being asked for."""
    under = _armored(_age_file(text.encode("ascii"), passphrase))
    _typed[under] = passphrase
    if plain(under, {}, "passphrase") != text:
        raise Failed("passphrase", "what it opens is not what was put under it", "Nothing was changed: run it again")
    return under


def of(text: str, environment: Mapping[str, str], place: str) -> str:
    """The passphrase of a text that is under one: the variable's, else what a person types. Raises UsageError for neither."""
    if given := environment.get(VARIABLE):
        return given
    with _asking:
        if text not in _typed:
            if not _is_asked():
                raise UsageError(place, "it is under a passphrase, and there is no terminal to ask at", f"Set {VARIABLE}")
            _typed[text] = getpass(f"Passphrase of {place}: ")
        return _typed[text]


def new(environment: Mapping[str, str]) -> str:
    """A new passphrase: the variable's, else one that a person types twice. Raises UsageError for one that is too short."""
    given = environment.get(VARIABLE)
    if not given:
        if not _is_asked():
            raise UsageError(VARIABLE, "there is no passphrase, and no terminal to ask at", f"Set {VARIABLE}")
        given = getpass("New passphrase: ")
        if getpass("Once more: ") != given:
            raise UsageError("passphrase", "the two are not the same", "Type it again")
    if not given.isprintable():  # bytes of another encoding are not, and no age program takes them
        raise UsageError("passphrase", "it has characters that nobody can type again", "Take letters, digits and spaces")
    if len(given) < _LENGTH_MIN:
        raise UsageError("passphrase", f"it has fewer than {_LENGTH_MIN} characters", "Take a longer one, such as five words")
    return given


def _is_asked() -> bool:
    """Whether somebody sits there; a service may have no standard input at all."""
    return sys.stdin is not None and sys.stdin.isatty()


def _age_file(content: bytes, passphrase: str) -> bytes:
    """One chunk of `content` under a scrypt recipient, as age v1 writes it.

    pyrage would do it with as much work as this machine does in a second: half a gigabyte of memory, each time that it is opened.
    """
    file_key, salt, nonce = os.urandom(16), os.urandom(16), os.urandom(16)
    work = Scrypt(salt=b"age-encryption.org/v1/scrypt" + salt, length=32, n=2**_WORK, r=8, p=1)
    wrapped = ChaCha20Poly1305(work.derive(passphrase.encode())).encrypt(bytes(12), file_key, None)
    header = f"age-encryption.org/v1\n-> scrypt {_base64(salt)} {_WORK}\n{_base64(wrapped)}\n---".encode()
    mac = hmac.digest(_derived(file_key, None, b"header"), header, "sha256")
    last = bytes(11) + b"\x01"
    payload = ChaCha20Poly1305(_derived(file_key, nonce, b"payload")).encrypt(last, content, None)
    return header + f" {_base64(mac)}\n".encode() + nonce + payload


def _armored(file: bytes) -> str:
    lines = textwrap.wrap(base64.b64encode(file).decode(), 64)
    return "\n".join([_HEAD, *lines, "-----END AGE ENCRYPTED FILE-----", ""])


def _derived(key: bytes, salt: bytes | None, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), length=32, salt=salt, info=info).derive(key)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")
