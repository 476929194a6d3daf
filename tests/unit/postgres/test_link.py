import psycopg
import pytest
from psycopg import conninfo

from tierkeeper.kernel.errors import NotNow, TierkeeperError, UsageError
from tierkeeper.postgres.link import Link, translate


def test_the_uri_keeps_spaces_and_pluses() -> None:
    """libpq takes a plus in a URI for a plus: a password with a space would be another one."""
    link = Link("core", "postgresql://u:a%20b+c%25@127.0.0.1:5432/d?options=-c%20work_mem%3D1MB")
    given = conninfo.conninfo_to_dict(link.uri)
    assert (given["password"], given["options"]) == ("a b+c%", "-c work_mem=1MB")


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("consuming input failed: SSL error: unexpected eof while reading", NotNow),
        ("consuming input failed: SSL connection has been closed unexpectedly", NotNow),
        ("SSL SYSCALL error: EOF detected", NotNow),
        ('FATAL: too many connections for role "app"', NotNow),
        ("SSL error: certificate verify failed", UsageError),
        ("SSL error: tlsv1 alert unknown ca", UsageError),
        ("server does not support SSL, but SSL was required", UsageError),
    ],
)
def test_a_peer_that_went_away_is_not_one_that_cannot_be_verified(said: str, kind: type[TierkeeperError]) -> None:
    told = translate(psycopg.OperationalError(said), "tiers.main")
    assert isinstance(told, kind)
    assert ("raise the limit" in told.remedy) == ("too many" in said)


@pytest.mark.parametrize("password", ["Sup3r/Secret", "Sup3r@Secret", "1234/Secret", "Sup3r?a@Secret", "Sup3r:a/Secret"])
def test_a_password_that_is_not_escaped_is_never_shown_as_a_host(password: str) -> None:
    with pytest.raises(UsageError, match=r"cannot be read.*%-escapes in the password") as caught:
        _ = Link("core", f"postgresql://bob:{password}@db.example.com:5432/x").shown
    assert "Secret" not in str(caught.value)
    for plain in ("bob:Sup3r%2FSecret@db:5432/x", "bob@/x?host=%40socket", "bob:a?b#c@db:5432,db2:/x?user=a@b"):
        assert "Sup3r" not in Link("core", f"postgresql://{plain}", insecure=True).shown
