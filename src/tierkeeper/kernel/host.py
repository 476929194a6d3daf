"""What kind of machine this is, by its environment alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

_NOWHERE: Final = Path("/dev/null/home")  # nothing is ever found there, and nothing can be made, not even by root


def has_lasting_disk(environment: Mapping[str, str]) -> bool:
    """Whether what is written here is there tomorrow: not at AWS Lambda, though on one's own machine, where it is only tried.

    `serverless invoke local` sets Lambda's variables, and IS_LOCAL.
    """
    return "AWS_LAMBDA_FUNCTION_NAME" not in environment or bool(environment.get("IS_LOCAL"))


def home(environment: Mapping[str, str]) -> Path:
    """The user's home. A user whom the system does not know has none, and a folder that is not there stands for it."""
    if given := environment.get("HOME"):
        return Path(given)
    try:
        return Path.home()
    except RuntimeError:
        return _NOWHERE
