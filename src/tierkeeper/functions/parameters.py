"""The secrets of a function at AWS: from Systems Manager's Parameter Store, below the function's own environment.

So that no secret stands in a template or in a function's configuration, which more people read than may know it. A value never
shows: not in an error, not in a log, not in `repr`. Where a disk lasts (also under `serverless invoke local`) nothing is asked.
"""

import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any, Final

from tierkeeper.kernel.errors import Failed, NotNow, TierkeeperError, UsageError
from tierkeeper.kernel.host import has_lasting_disk

FOLDER: Final = "TIERKEEPER_PARAMETERS"  # the parameters' names begin so: /tierkeeper/STAGE/
NAMES: Final = "TIERKEEPER_PARAMETER_NAMES"  # the variables that the function's role may read, with commas between
SECRET: Final = (  # where NAMES is not set
    "ARCHIVE_SUPABASE_URL",
    "CORE_SUPABASE_URL",
    "HOME_SERVER_TOKEN",
    "HOME_SERVER_URL",
    "MAIN_SUPABASE_URL",
    "TIERKEEPER_KEY",
)
REREAD_SECONDS: Final = 300  # a rotated secret arrives within so long; reading costs a request of some 20 ms
AT_ONCE: Final = 10  # GetParameters takes no more
TRIES: Final = 3  # of one request, the pauses between doubling: Parameter Store allows 40 a second to a whole account
CONNECT_SECONDS: Final = 2  # it is in the same region, and the shortest of the functions has 30 seconds in all
READ_SECONDS: Final = 4
FAILED_SECONDS: Final = 5  # what failed so short a time ago is not tried again: an invocation asks more than once

_THROTTLED: Final = frozenset(
    {"ThrottlingException", "Throttling", "TooManyUpdates", "InternalServerError", "ServiceUnavailable"}
)
_DENIED: Final = frozenset({"AccessDeniedException", "AccessDenied", "UnrecognizedClientException", "ExpiredTokenException"})


def environment() -> Mapping[str, str]:
    """What configuration is read from: `os.environ`, and below it the function's secrets where it runs at AWS.

    Raises UsageError for a wrong TIERKEEPER_PARAMETERS, Failed where they may not be read, NotNow where they cannot be now.
    """
    if FOLDER not in os.environ or has_lasting_disk(os.environ):
        return os.environ
    return _KEPT.over(os.environ)


def to_hide() -> Mapping[str, str]:
    """What no text may show, by names of variables: `environment` as it is known here, and a rotated secret's value of before.

    Asks nobody, and raises nothing: an error that is to be told must not become another one.
    """
    return {**_KEPT.known(), **{name: value for name, value in os.environ.items() if value.strip()}}


@dataclass
class Secrets:
    """What an instance of a function knows of its secrets: read when first asked for, and again after REREAD_SECONDS.

    One that was read stays in use while Parameter Store is away.
    """

    client: Callable[[str | None], Any]  # of a region: botocore's client of "ssm"
    wall: Callable[[], float] = time.time  # a frozen instance's monotonic clock may stand still meanwhile
    _values: Mapping[str, str] = field(default_factory=dict, repr=False)
    _before: Mapping[str, str] = field(default_factory=dict, repr=False)  # what began with one may quote it still
    _asked: tuple[str, Sequence[str]] | None = None
    _read_at: float = 0
    _failed: tuple[float, TierkeeperError] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def over(self, environ: Mapping[str, str]) -> Mapping[str, str]:
        """`environ` over the secrets: a variable that is set there, and not empty, wins. Raises as `environment` does."""
        with self._lock:
            self._refresh((_folder(environ), _names(environ)), environ.get("AWS_REGION"))
            return {
                **self._values,
                **{name: value for name, value in environ.items() if value.strip() or name not in self._values},
            }

    def known(self) -> Mapping[str, str]:
        """All that was read; what a rotation has replaced is called OLD_ and the variable's name."""
        return {**{f"OLD_{name}": value for name, value in self._before.items()}, **self._values}

    def _refresh(self, asked: tuple[str, Sequence[str]], region: str | None) -> None:
        now = self.wall()
        if self._asked == asked and 0 <= now - self._read_at < REREAD_SECONDS:
            return
        if self._failed is not None and 0 <= now - self._failed[0] < FAILED_SECONDS:
            raise self._failed[1]
        try:
            found = self._read(*asked, region)
        except TierkeeperError as error:
            if self._asked != asked or not isinstance(error, NotNow):
                self._failed = self.wall(), error
                raise
        else:
            self._before = {**self._before, **{n: v for n, v in self._values.items() if found.get(n) != v}}
            self._values = found
        self._asked, self._read_at, self._failed = asked, self.wall(), None

    def _read(self, folder: str, names: Sequence[str], region: str | None) -> Mapping[str, str]:
        """The values of those that are there, by the names of their variables."""
        found: dict[str, str] = {}
        client = self.client(region)
        from botocore.exceptions import BotoCoreError, ClientError

        for first in range(0, len(names), AT_ONCE):
            wanted = [folder + name for name in names[first : first + AT_ONCE]]
            try:
                answer = client.get_parameters(Names=wanted, WithDecryption=True)
            except (BotoCoreError, ClientError) as error:
                raise _translated(error, folder) from None
            found |= {each["Name"].removeprefix(folder): each["Value"] for each in answer["Parameters"]}
        return found


def _folder(environ: Mapping[str, str]) -> str:
    folder = environ[FOLDER]
    if not re.fullmatch(r"(/[A-Za-z0-9_.-]+)+/", folder):
        raise UsageError(FOLDER, "this is no path of parameters", "Write it as /tierkeeper/dev/, with a slash at both ends")
    return folder


def _names(environ: Mapping[str, str]) -> Sequence[str]:
    """The variables to ask for. A name that the role may not read would have the whole request refused."""
    given = tuple(name.strip() for name in environ.get(NAMES, "").split(",") if name.strip())
    wrong = [name for name in given if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name)]
    if wrong:
        raise UsageError(NAMES, f"{wrong[0]!r} is no name of a variable", "Write the names with commas between")
    return given or SECRET


@cache
def _client(region: str | None) -> Any:
    try:
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError
        from botocore.session import get_session
    except ImportError:
        raise Failed(FOLDER, "botocore is not in the artifact", "Build it anew: python deploy/lambda/artifacts.py") from None
    config = Config(
        retries={"mode": "standard", "max_attempts": TRIES}, connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS
    )
    try:
        return get_session().create_client("ssm", region_name=region, config=config)
    except BotoCoreError as error:
        raise _translated(error, FOLDER) from None


def _translated(error: Exception, folder: str) -> TierkeeperError:
    """Botocore's error in our words. Its texts name roles, keys and parameters, and no value."""
    from botocore.exceptions import ClientError, ConnectionError, HTTPClientError

    place = f"Parameter Store: {folder}"
    if isinstance(error, ClientError):
        return _refused(error.response, place)
    if isinstance(error, HTTPClientError | ConnectionError):  # no connection, none in time, or one that broke off
        remedy = "In a private network the function needs a way out, or an endpoint for ssm"
        return NotNow(place, f"it does not answer ({type(error).__name__})", remedy)
    return Failed(place, f"it cannot be asked ({type(error).__name__})", "Look at the function's role and region")


def _refused(answer: Mapping[str, Any], place: str) -> TierkeeperError:
    code, text = answer["Error"]["Code"], answer["Error"].get("Message", "")
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _THROTTLED or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return NotNow(place, f"it has no time for this function now ({code})", "Try again")
    if code in _DENIED and "kms:" in text:
        remedy = 'Deploy with --param="kms-key=ARN", which lets its role decrypt what that key of your own encrypted'
        return Failed(place, "the function may not decrypt its secrets", remedy)
    if code in _DENIED:
        return Failed(
            place, f"the function may not read its secrets ({code})", "Run serverless deploy: its role names what it may"
        )
    return Failed(place, f"its secrets were not given ({code}: {text})", "Look at the parameters below this path")


_KEPT: Final = Secrets(_client)
