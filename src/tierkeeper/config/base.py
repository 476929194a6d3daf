"""What all sections of `tierkeeper.toml` stand on, and how a fault in one is told. Pure."""

from typing import NamedTuple

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError


class Finding(NamedTuple):
    """A fault inside a model: the key below the model's place ("" for the place itself), its cause and remedy."""

    key: str
    cause: str
    remedy: str


def refuse(*findings: Finding) -> PydanticCustomError:
    """The exception that carries `findings` through pydantic, so that it goes on and collects the other faults."""
    return PydanticCustomError("tierkeeper", "found wrong", {"findings": findings})


class Section(BaseModel):
    """Base of all sections: frozen, closed (a misspelt key is a fault), and silent about its input."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True, defer_build=True)
