"""Keeps secrets out of what is printed: passwords in addresses, tokens, alert URLs."""

import re
from collections.abc import Mapping

_USERINFO = re.compile(r"(?<=://)[^/?#\s]*@")
_PARAMETER = re.compile(r"(?i)\b(password|sslpassword|token|secret)=[^&\s'\"]+")
_NAMED = re.compile(r"TOKEN|PASSWORD|SECRET|KEY$|_URL$")
_SHORTEST = 8  # hiding every "x" because a password is "x" would leave nothing to read


def redact(text: str, variables: Mapping[str, str] | None = None) -> str:
    """`text` without the users and passwords of URLs, `password=` values, and the values of secret `variables`."""
    for name, value in (variables or {}).items():
        if _NAMED.search(name) and len(value) >= _SHORTEST:
            text = text.replace(value, f"<{name}>")
            password = _password(value)
            if password is not None and len(password) >= _SHORTEST:
                text = text.replace(password, "…")
    return _PARAMETER.sub(r"\1=…", _USERINFO.sub("…@", text))


def _password(url: str) -> str | None:
    match = re.match(r"[a-z+]+://[^/?#\s:]*:([^/?#\s]+)@", url)
    return match[1] if match else None
