"""Keeps secrets out of what is printed: passwords in addresses, tokens, alert URLs."""

import re
from collections.abc import Mapping
from urllib.parse import unquote

_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_PARAMETER = re.compile(r"(?i)\b(password|sslpassword|token|secret)=[^&\s'\"]+")
_NAMED = re.compile(r"TOKEN|PASSWORD|SECRET|KEY$|_URL$")
_SHORTEST = 8  # hiding every "x" because a password is "x" would leave nothing to read


def redact(text: str, variables: Mapping[str, str] | None = None) -> str:
    """`text` without the users and passwords of URLs, `password=` values, and the values of secret `variables`."""
    for name, value in (variables or {}).items():
        if _NAMED.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"<{name}>")
            for password in _passwords(value):
                text = text.replace(password, "…") if len(password) >= _SHORTEST else text
    return _PARAMETER.sub(r"\1=…", _USERINFO.sub("…@", text))


def _passwords(url: str) -> list[str]:
    """The password as the URL has it and as the server is given it, the longer one first."""
    match = re.match(r"[a-z+]+://[^/?#\s:]*:([^/?#\s]+)@", url)
    return sorted({match[1], unquote(match[1])}, key=len, reverse=True) if match else []
