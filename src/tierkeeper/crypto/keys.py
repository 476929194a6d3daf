"""The archive's keys: where they come from, what they look like in a file, and the few things done with them.

The ring seals documents to two age recipients, the operational one and the offline recovery one, and signs them. It must never
print, log or raise a secret, and must never let a document through that is not exactly what was signed.
"""

import fcntl
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import pyrage
import rfc8785
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tierkeeper.crypto import passphrase, wallet
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.faults import Point, reach
from tierkeeper.kernel.host import has_lasting_disk

KEY_FILE: Final = "archive.key"
RECOVERY_FILE: Final = "archive-recovery.key"
VARIABLE: Final = "TIERKEEPER_KEY"
Form = Literal["plain", "passphrase", "keyring"]
"""How a key lies in its file: as it is, under a passphrase, or not at all: the file names an entry of the keyring."""

KEY_ID_DIGITS: Final = 16  # enough to tell keys apart; not a secret and not an authenticator

_OPERATIONAL_MAGIC: Final = "tierkeeper-archive-key"
_RECOVERY_MAGIC: Final = "tierkeeper-recovery-key"
_VERSION: Final = "1"
_FIELDS: Final[Mapping[str, tuple[str, ...]]] = {
    _OPERATIONAL_MAGIC: ("identity", "signing-key", "recovery-recipient"),
    _RECOVERY_MAGIC: ("identity", "verify-key", "operational-recipient"),
}
_PREVIOUS: Final = "previous"  # operational identities before this one; there may be none
_NOTE: Final = {
    _OPERATIONAL_MAGIC: "# Whoever has this file can read the archive. Losing it and the recovery key loses the archive.",
    _RECOVERY_MAGIC: "# Keep this file offline. It opens the archive when archive.key is lost; it cannot sign new segments.",
}


@dataclass(frozen=True)
class KeyRing:
    """The keys of one archive.

    What it seals, both the operational and the recovery identity can open. What it opens was signed by this archive's signing key
    for this purpose and is byte for byte what was signed. A ring read from a recovery file opens and verifies, but signs nothing.
    The operational identity may be replaced (`rotate`): those before it still open what was sealed to them.
    """

    identity: pyrage.x25519.Identity = field(repr=False)
    operational: str  # age recipients and the verification key are public
    recovery: str
    verify_key: bytes
    signing_key: bytes | None = field(default=None, repr=False)
    previous: tuple[pyrage.x25519.Identity, ...] = field(default=(), repr=False)

    @property
    def key_id(self) -> str:
        """Names the archive that these keys are of, in manifests and reports; a rotation leaves it as it is."""
        return _short(f"{self.recovery} {self.verify_key.hex()}")

    @property
    def recipient_id(self) -> str:
        """Names the operational key that is sealed to."""
        return _short(self.operational)

    def opens(self, recipient_id: str) -> bool:
        """Whether what was sealed to the operational key of that name opens: to the recovery key all is sealed as well."""
        own = (str(one.to_public()) for one in (self.identity, *self.previous))
        return self.signing_key is None or recipient_id in map(_short, own)

    @classmethod
    def open(cls, config_dir: Path, environment: Mapping[str, str]) -> Self:
        """The ring from `TIERKEEPER_KEY`, else from `archive.key` in `config_dir`; either may be under a passphrase.

        Raises UsageError if there is none, if others than its owner can read the file, if it is no key, or does not open.
        """
        if text := environment.get(VARIABLE):
            return cls.parse(_plain(text.replace("\\n", "\n"), environment, VARIABLE), VARIABLE)
        path = config_dir / KEY_FILE
        text = _read(path)
        _tidy(_file(config_dir))
        return cls.parse(_plain(text, environment, str(path)), str(path))

    @staticmethod
    def form(config_dir: Path, environment: Mapping[str, str]) -> Form:
        """How the key in use lies there."""
        return _form(environment.get(VARIABLE) or _read(config_dir / KEY_FILE))

    @classmethod
    def protect(cls, config_dir: Path, environment: Mapping[str, str], form: Form, secret: str = "") -> None:
        """Replaces `archive.key` at once by the same key in another form; `secret`: the passphrase that it is to be under.

        Raises UsageError where it does not open, or the keyring does not take it.
        """
        path = _file(config_dir)
        with _replacing(path):
            old = _read(path)
            text = _plain(old, environment, str(path))
            ring = cls.parse(text, str(path))
            _replace(path, _formed(text, form, _entry(path, ring.recipient_id), secret))
            wallet.forget(old, _own(path))

    @staticmethod
    def present(config_dir: Path, environment: Mapping[str, str]) -> bool:
        """Whether there is a key, whatever its state."""
        return bool(environment.get(VARIABLE)) or (config_dir / KEY_FILE).exists()

    @classmethod
    def create(cls, config_dir: Path, environment: Mapping[str, str]) -> tuple[Self, str]:
        """Makes the keys, writes `archive.key` and `archive-recovery.key` (600) and returns the ring and what to tell the user.

        Raises UsageError on a host that keeps no disk, and where either file is there already.
        """
        if not has_lasting_disk(environment):
            remedy = (
                f"Make it on a machine of yours with `tierkeeper setup --apply` and put the text of {KEY_FILE} into {VARIABLE}"
            )
            raise UsageError(
                "archive key", "this host has no lasting disk, so a key made here would be lost with the archive", remedy
            )
        identity, recovery = pyrage.x25519.Identity.generate(), pyrage.x25519.Identity.generate()
        signing = Ed25519PrivateKey.generate()
        ring = cls(
            identity,
            str(identity.to_public()),
            str(recovery.to_public()),
            signing.public_key().public_bytes_raw(),
            signing.private_bytes_raw(),
        )
        path, recovery_path = config_dir / KEY_FILE, config_dir / RECOVERY_FILE
        try:
            config_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            # The recovery key first: an operational key whose recovery half was never written must not come to use.
            _write_new(recovery_path, _render(_RECOVERY_MAGIC, str(recovery), ring.verify_key.hex(), ring.operational))
            _write_new(path, _render(_OPERATIONAL_MAGIC, str(identity), signing.private_bytes_raw().hex(), ring.recovery))
        except FileExistsError as error:
            remedy = "Keep both files; to start a new archive move them away first"
            raise UsageError(str(error.filename), "a key is there already and may belong to an archive", remedy) from None
        except OSError as error:
            raise UsageError(
                str(config_dir), f"the key cannot be written ({error.strerror})", "Make the folder writable"
            ) from error
        return ring, _statement(path, recovery_path)

    @classmethod
    def parse(cls, text: str, place: str) -> Self:
        """The ring in the text of a key file, operational or recovery. Raises UsageError naming `place`."""
        magic, values = _fields(text, place)
        try:
            identity = pyrage.x25519.Identity.from_str(values["identity"])
            other = values["recovery-recipient" if magic == _OPERATIONAL_MAGIC else "operational-recipient"]
            pyrage.x25519.Recipient.from_str(other)
            own = str(identity.to_public())
            if magic == _RECOVERY_MAGIC:
                verify = Ed25519PublicKey.from_public_bytes(bytes.fromhex(values["verify-key"]))
                return cls(identity, other, own, verify.public_bytes_raw())
            signing = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(values["signing-key"]))
            before = tuple(pyrage.x25519.Identity.from_str(text) for text in values.get(_PREVIOUS, "").split())
            return cls(identity, own, other, signing.public_key().public_bytes_raw(), signing.private_bytes_raw(), before)
        except (pyrage.IdentityError, pyrage.RecipientError, ValueError):
            raise UsageError(place, "the archive key is damaged", "Restore it from its copy") from None

    def rotated(self, config_dir: Path, environment: Mapping[str, str] | None = None) -> Self:
        """A ring with another operational key, which opens all that this one does; `archive.key` is replaced by it at once.

        One under a passphrase stays under it, one in the keyring there. Raises UsageError for a recovery key, and where the file
        is not this ring's.
        """
        path = _file(config_dir)
        given = {k: v for k, v in (environment or {}).items() if k != VARIABLE}
        identity, previous = pyrage.x25519.Identity.generate(), (self.identity, *self.previous)
        with _replacing(path):
            if (
                self.signing_key is None
                or not path.exists()
                or type(self).open(config_dir, given).recipient_id != self.recipient_id
            ):
                cause = "the key in use does not come from this file"
                raise UsageError(str(path), cause, f"Rotate where {KEY_FILE} lies, without {VARIABLE}")
            reach(Point.KEY_REPLACING)
            before = " ".join(str(one) for one in previous)
            text, old = _render(_OPERATIONAL_MAGIC, str(identity), self.signing_key.hex(), self.recovery, before), _read(path)
            form = _form(old)
            secret = passphrase.of(old, given, str(path)) if form == "passphrase" else ""
            _replace(path, _formed(text, form, _entry(path, _short(str(identity.to_public()))), secret))
            wallet.forget(old, _own(path))
        return type(self)(identity, str(identity.to_public()), self.recovery, self.verify_key, self.signing_key, previous)

    def alone(self) -> Self:
        """The ring without the operational keys before its own."""
        return replace(self, previous=())

    def seal(self, purpose: str, body: Mapping[str, Any]) -> bytes:
        """`body` (JSON values) signed for `purpose` and encrypted to both recipients."""
        if self.signing_key is None:
            raise UsageError(
                "archive key", "a recovery key opens and verifies, but signs nothing", f"Use the operational {KEY_FILE}"
            )
        signature = Ed25519PrivateKey.from_private_bytes(self.signing_key).sign(_signed_bytes(purpose, body))
        document = rfc8785.dumps({"body": dict(body), "key_id": self.key_id, "signature": signature.hex()})
        sealed: bytes = pyrage.encrypt(document, [pyrage.x25519.Recipient.from_str(r) for r in (self.operational, self.recovery)])
        return sealed

    def unseal(self, purpose: str, sealed: bytes, place: str) -> dict[str, Any]:
        """The body of a sealed document. Raises Failed, naming `place`, unless it opens and its signature is right."""
        remedy = "It is damaged, was not written by this archive, or needs another key: check which key is in use"
        try:
            plain = pyrage.decrypt(sealed, [self.identity, *self.previous])
            document = json.loads(plain)
            body, signature = document["body"], bytes.fromhex(document["signature"])
            Ed25519PublicKey.from_public_bytes(self.verify_key).verify(signature, _signed_bytes(purpose, body))
            canonical = rfc8785.dumps(document)
        except pyrage.DecryptError:
            raise Failed(place, "it cannot be decrypted", remedy) from None
        except InvalidSignature:
            raise Failed(place, "its signature is wrong", remedy) from None
        except (ValueError, KeyError, TypeError, AttributeError, rfc8785.CanonicalizationError):
            raise Failed(place, "it is not a sealed document", remedy) from None
        if canonical != plain or document.get("key_id") != self.key_id:
            raise Failed(place, "it is not a sealed document of this key", remedy)
        return dict(body)


def _signed_bytes(purpose: str, body: Mapping[str, Any]) -> bytes:
    """What is signed names its purpose, so that no document can stand in for one of another kind."""
    return f"tierkeeper {purpose}\0".encode() + rfc8785.dumps(dict(body))


def _fields(text: str, place: str) -> tuple[str, dict[str, str]]:
    # A variable often carries its line breaks escaped.
    lines = [line.strip() for line in text.replace("\\n", "\n").splitlines()]
    pairs = [line.partition(":") for line in lines if line and not line.startswith("#")]
    values = {name.strip(): value.strip() for name, _, value in pairs}
    magic = pairs[0][0].strip() if pairs else ""
    if magic not in _FIELDS:
        raise UsageError(place, "this is not an archive key", f"Give the whole text of {KEY_FILE}")
    if values[magic] != _VERSION:
        raise UsageError(place, f"the archive key has version {values[magic][:10]!r}", "Use a tierkeeper that knows this version")
    if set(values) - {_PREVIOUS} != {magic, *_FIELDS[magic]}:
        raise UsageError(place, "the archive key is damaged", "Restore it from its copy")
    return magic, values


def _render(magic: str, *values: str) -> str:
    names = (*_FIELDS[magic], _PREVIOUS)
    lines = [f"{magic}: {_VERSION}", *(f"{n}: {v}" for n, v in zip(names, values, strict=False))]
    return "\n".join([_NOTE[magic], *lines, ""])


def _plain(text: str, environment: Mapping[str, str], place: str) -> str:
    return wallet.plain(passphrase.plain(text, environment, place), place)


def _form(text: str) -> Form:
    return "passphrase" if passphrase.is_sealed(text) else "keyring" if wallet.is_pointer(text) else "plain"


def _formed(text: str, form: Form, entry: str, secret: str) -> str:
    if form == "plain":
        return text
    return passphrase.sealed(text, secret) if form == "passphrase" else wallet.kept(text, entry)


def _entry(path: Path, recipient_id: str) -> str:
    """The keyring's name for the key of this file. The same key in another folder has another: each goes with its own file."""
    return f"{KEY_FILE} {recipient_id}{_own(path)}"


def _own(path: Path) -> str:
    """With what the names of its entries end."""
    return f" {_short(str(path))}"


def _file(config_dir: Path) -> Path:
    """The file to replace: where a link leads to it, what it leads to would stay as it was, with the key in it."""
    return Path(os.path.realpath(config_dir / KEY_FILE))


def _read(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii")
    except FileNotFoundError:
        remedy = f"Run `tierkeeper setup --apply`, which makes one, or put the text of your {KEY_FILE} into {VARIABLE}"
        raise UsageError(str(path), "there is no archive key", remedy) from None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(str(path), "the archive key cannot be read", "Restore it from its copy") from error
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise UsageError(str(path), f"others can read the archive key (mode {stat.S_IMODE(mode):o})", f"Run chmod 600 {path}")
    return text


@contextmanager
def _replacing(path: Path, *, wait: bool = True) -> Iterator[None]:
    """One replacement of the key file at a time: of two that came at once one would be in no file, and segments wrapped to it."""
    try:
        fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            yield
        finally:
            os.close(fd)
    except OSError as error:
        cause = f"the key cannot be replaced ({error.strerror})"
        raise UsageError(str(path), cause, "Make the folder writable; the old key is as it was") from error


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.new")


def _tidy(path: Path) -> None:
    """Takes away what a killed replacement left beside the key: it may be the key in the clear. One under way keeps its own."""
    temporary = _temporary(path)
    if temporary.exists():
        with suppress(OSError, UsageError), _replacing(path, wait=False):
            temporary.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)
    _write_new(temporary, text)
    reach(Point.KEY_WRITTEN)
    temporary.replace(path)
    _sync_folder(path.parent)


def _write_new(path: Path, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "w", encoding="ascii") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    _sync_folder(path.parent)


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _short(public: str) -> str:
    return hashlib.sha256(public.encode()).hexdigest()[:KEY_ID_DIGITS]


def _statement(path: Path, recovery_path: Path) -> str:
    return (
        f"The archive's key was made: {path}\n"
        f"Its recovery key was made:  {recovery_path}\n"
        "Losing both loses the archive: nobody can read it without one of them, and nobody can make them again.\n"
        "Move the recovery key to a place that is offline (paper, a stick in a drawer), then delete it here."
    )
