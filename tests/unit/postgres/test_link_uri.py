from psycopg import conninfo

from tierkeeper.postgres.link import Link


def test_the_uri_keeps_spaces_and_pluses() -> None:
    """libpq takes a plus in a URI for a plus: a password with a space would be another one."""
    link = Link("core", "postgresql://u:a%20b+c%25@127.0.0.1:5432/d?options=-c%20work_mem%3D1MB")
    given = conninfo.conninfo_to_dict(link.uri)
    assert (given["password"], given["options"]) == ("a b+c%", "-c work_mem=1MB")
