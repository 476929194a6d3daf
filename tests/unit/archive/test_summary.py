"""What a manifest says of values opens with the segment's own key alone."""

from uuid import uuid4

import pytest

from tierkeeper.archive.summary import Summary, sealed, unsealed
from tierkeeper.kernel.errors import Failed

KEY = bytes(range(32))
SUMMARY = Summary(ranges={"name": ("anna@example.org", "zoe@example.org")}, first_key=["1"], last_key=["9"])


def test_it_opens_with_its_key_for_its_segment_and_else_not_at_all() -> None:
    one, other = uuid4(), uuid4()
    text = sealed(SUMMARY, KEY, one)
    assert unsealed(text, KEY, one, "here") == SUMMARY
    assert b"anna" not in bytes.fromhex(text)
    assert sealed(SUMMARY, KEY, one) != text, "two of the same do not look the same"
    for wrong, key, segment in (
        (text, KEY, other),
        (text, KEY[::-1], one),
        (text[:-2], KEY, one),
        (text[:10] + ("0" if text[10] != "0" else "1") + text[11:], KEY, one),
        ("no hex", KEY, one),
        ("", KEY, one),
    ):
        with pytest.raises(Failed, match="its summary is not what was written"):
            unsealed(wrong, key, segment, "here")
