"""What Apprise's own words for a failure come to."""

import smtplib

import pytest

from tierkeeper.monitoring.alerts.child import _cause


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (smtplib.SMTPRecipientsRefused({"b@example.com": (550, b"no such user")}), "it refuses the recipient"),
        (smtplib.SMTPAuthenticationError(535, b"no"), "it refuses the user or the password"),
        (TimeoutError("timed out"), "it does not answer in time"),
        (smtplib.SMTPDataError(451, b"later"), "Apprise could not deliver it"),
    ],
)
def test_what_a_mail_server_says_is_told_without_any_of_it(error: Exception, cause: str) -> None:
    """Apprise writes the exception after these words."""
    assert _cause(f"Sending...\nSocket Exception: {error}\nfailed") == cause
