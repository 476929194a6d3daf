"""`tierkeeper init`: a `tierkeeper.toml` from the variables that are set. Secrets stay where they are, as `env:` references."""

import os
from pathlib import Path
from typing import Final

import typer

from tierkeeper.cli.session import Session, command
from tierkeeper.config.read import FILE, read_variables
from tierkeeper.kernel.errors import Failed, UsageError
from tierkeeper.kernel.results import InitResult

REQUIRED: Final[tuple[str, ...]] = ("CORE_SUPABASE_URL", "MAIN_SUPABASE_URL", "ARCHIVE_SUPABASE_URL")

_TEMPLATE: Final = """\
# tierkeeper's configuration. "env:NAME" reads a variable from the environment or from .env beside this file.
# 'tierkeeper check' tells everything that is wrong with it.

[tiers.core]
url = "env:CORE_SUPABASE_URL"
quota = {core_quota}

[tiers.main]
url = "env:MAIN_SUPABASE_URL"
quota = {main_quota}

[tiers.archive]
catalog = "env:ARCHIVE_SUPABASE_URL"
store = {store}
quota = {archive_quota}

# One entry for each table whose rows should move; without any, nothing moves.
# [[tables]]
# name = "public.flights"
# age = "time_hour"       # the column that says how old a row is
# core = "30 days"        # rows older than this leave Core ...
# main = "365 days"       # ... and Main
# drop_partitions = true  # quota drops old partitions once they are empty; late rows then need a DEFAULT one
# mode = "move"           # or "mirror": a reference table, kept in step below so that history still joins
# [[tables]]
# name = "public.notes"   # without age: its rows leave with those that they refer to by a foreign key

[query]
timeout = "5 minutes"     # the longest reader; a row rests in a tier at least so long before it moves on

[quotas]
start_at = "85%"
stop_at = "70%"
# allow_rewrite = true    # let VACUUM FULL lock a table where nothing gentler gives its space back

[balance]
algorithm = {algorithm}
health_check_interval = {interval}
max_retries = {retries}
"""


def register(app: typer.Typer) -> None:
    """Adds the command."""

    @command(app, "init")
    def init(session: Session) -> None:
        """Write a tierkeeper.toml from the variables that are set.

        Secrets stay in the environment: the file refers to them as env:NAME. An existing file is never touched.
        """
        file = session.config or Path(FILE)
        variables = read_variables(file.absolute().parent, os.environ)
        try:
            with file.open("x", encoding="utf-8") as stream:
                stream.write(document(variables))
        except FileExistsError:
            raise UsageError(str(file), "the file is there already", "Edit it, or move it away first") from None
        except OSError as error:
            raise Failed(
                str(file), f"the file cannot be written ({error.strerror})", "Name another place with --config"
            ) from None
        found = [name for name in (*REQUIRED, "HOME_SERVER_URL", "ARCHIVE_PATH") if name in variables]
        missing = [name for name in REQUIRED if name not in variables]
        if not {"HOME_SERVER_URL", "ARCHIVE_PATH"} & variables.keys():
            missing.append("ARCHIVE_PATH")
        session.show(InitResult(file=str(file), found=found, missing=missing))


def document(variables: dict[str, str]) -> str:
    """The file's text. Pure; it holds no value of a variable, only references and defaults."""

    def value(name: str, default: str) -> str:
        return f'"env:{name}"' if name in variables else default

    return _TEMPLATE.format(
        core_quota=value("CORE_QUOTA_LIMIT", '"500MB"'),
        main_quota=value("MAIN_QUOTA_LIMIT", '"10GB"'),
        archive_quota=value("ARCHIVE_QUOTA_LIMIT", '"100GB"'),
        store='"env:HOME_SERVER_URL"' if "HOME_SERVER_URL" in variables else '"env:ARCHIVE_PATH"',
        algorithm=value("LOAD_BALANCER_ALGORITHM", '"round_robin"'),
        interval=value("HEALTH_CHECK_INTERVAL", "30"),
        retries=value("MAX_RETRIES", "3"),
    )
