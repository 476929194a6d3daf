"""Authorities that the user confirmed, each for one tier at one host: files in the configuration folder, beside the key.

I6: a link whose tier and host have a file is verified with that file alone. One that cannot be read, or that others can write,
ends the link; it never makes it fall back to the system's authorities.
"""

import base64
import hashlib
import os
import stat
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from textwrap import wrap
from typing import Final
from urllib.parse import quote

from tierkeeper.kernel.errors import UsageError
from tierkeeper.postgres.certificates import Shown, from_pem, read
from tierkeeper.postgres.link import Link

FOLDER: Final = "authorities"
_NAME_MAX: Final = 150  # characters of a host (several: with commas) in a file's name, which holds 255 bytes
_PEM_COLUMNS: Final = 64
_TRUSTED_FOR_SERVERS: Final = bytes.fromhex("300c300a06082b06010505070301")
"""OpenSSL's X509_CERT_AUX: trusted for serverAuth (1.3.6.1.5.5.7.3.1). Without it libpq believes no certificate that another one
has signed, although it lies in sslrootcert: it looks for the root above.
"""


def file_of(folder: Path, link: Link) -> Path:
    """Where the authority for the tier and the host of `link` lies, or would. `folder` is the configuration's. Pure."""
    name = quote(link.host, safe="")
    name = name if len(name) <= _NAME_MAX else hashlib.sha256(name.encode()).hexdigest()
    return folder / FOLDER / f"{link.tier}@{name}.pem"


def applied(link: Link, folder: Path) -> Link:
    """`link`, which is verified with what is pinned for its tier and host; as it is where that is nothing.

    Raises UsageError for a file that others can write, or that cannot be looked at.
    """
    path = file_of(folder, link)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        if any(one.is_symlink() and not one.exists() for one in (path, path.parent, folder)):
            cause = "what is pinned lies behind a symbolic link that leads nowhere now"
            raise UsageError(str(path), cause, "Bring back what it leads to, or delete it and confirm anew") from None
        return link
    except OSError as error:  # whoever cannot look does not know that nothing is pinned
        cause = f"what is pinned cannot be looked at ({error.strerror})"
        raise UsageError(str(path), cause, "Make the folder readable for its user") from error
    if mode & (stat.S_IWGRP | stat.S_IWOTH):
        cause = f"others can write the pinned authority (mode {stat.S_IMODE(mode):o})"
        raise UsageError(str(path), cause, f"See that it is yours, then run chmod 600 {path}")
    return replace(link, pin=str(path))


def in_force(link: Link) -> str | None:
    """The file with the authority that vouches for the server of `link`, and no other; None where something else does."""
    return None if link.names_authority else link.pin


def pinned(path: str) -> Shown:
    """The authority in a file. Raises UsageError for one that holds none, or more than one."""
    from cryptography.hazmat.primitives.serialization import Encoding

    try:
        (certificate,) = from_pem(Path(path).read_bytes())
        (authority,) = read([certificate.public_bytes(Encoding.DER)])
    except (OSError, ValueError) as error:
        remedy = "Delete it, and confirm the authority anew: `tierkeeper setup --apply`"
        raise UsageError(path, "it holds no authority, or more than one", remedy) from error
    return authority


def write(path: Path, link: Link, authority: Shown, at: datetime, actor: str) -> None:
    """Pins `authority` at `path`, for its user alone; whenever this ends, the file is as it was or whole. Raises UsageError."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        _make(path.parent)
        temporary.unlink(missing_ok=True)
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="ascii") as file:
            file.write(_text(link, authority, at, actor))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        cause = f"the authority cannot be pinned ({error.strerror})"
        raise UsageError(str(path), cause, "Make the folder writable; nothing was changed") from error


def _text(link: Link, authority: Shown, at: datetime, actor: str) -> str:
    """OpenSSL passes over what stands before BEGIN. No word of the certificate's stands there: those are the peer's."""
    kind = "CERTIFICATE" if authority.signs_itself else "TRUSTED CERTIFICATE"
    body = authority.der if authority.signs_itself else authority.der + _TRUSTED_FOR_SERVERS
    lines = [
        f"# The authority that tierkeeper believes for {link.tier} at {quote(link.host, safe=',:')}, and no other.",
        f"# Confirmed at {at:%Y-%m-%d %H:%M:%S} UTC by {quote(actor, safe='@')}. To believe it no longer, delete this file.",
        f"# SHA-256 {authority.sha256}",
        f"-----BEGIN {kind}-----",
        *wrap(base64.b64encode(body).decode(), _PEM_COLUMNS),
        f"-----END {kind}-----",
        "",
    ]
    return "\n".join(lines)


def _make(folder: Path) -> None:
    """The folder, for its user alone, and its name durable."""
    if not folder.is_dir():
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sync(folder.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
