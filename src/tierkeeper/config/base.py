"""What all sections of `tierkeeper.toml` stand on, and how a fault in one is told. Pure."""

from typing import NamedTuple, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator
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

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_no_number(cls, given: object, info: ValidationInfo) -> object:
        field = cls.model_fields.get(info.field_name or "")
        kinds = () if field is None else (field.annotation, *get_args(field.annotation))
        if isinstance(given, bool) and bool not in kinds and (int in kinds or float in kinds):
            raise refuse(Finding("", "this must be a number", "Write a number, such as 3"))
        return given

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True, hide_input_in_errors=True, defer_build=True)
