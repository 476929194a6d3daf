"""A stand-in for an AWS account, on this machine: moto's server, with what it lacks of CloudFormation.

Run as a program: `cloud_server.py PORT`.
"""

import sys
from contextlib import suppress
from typing import Any

from moto.awslambda.exceptions import UnknownFunctionException
from moto.awslambda.models import get_backend
from moto.cloudformation.models import CloudFormationBackend
from moto.core.common_models import CloudFormationModel
from moto.iam.models import Role
from moto.server import main

_AS_IF = "moto.awslambda.models"  # moto sorts its models by their modules


class _OfFunction(CloudFormationModel):
    """Something that a function has at most one of; a stack knows it by the function."""

    __module__ = _AS_IF

    def __init__(self, backend: Any, properties: Any) -> None:
        raise NotImplementedError

    @staticmethod
    def cloudformation_name_type() -> str:
        return ""

    @classmethod
    def has_cfn_attr(cls, attr: str) -> bool:
        return attr == "FunctionUrl"

    @classmethod
    def create_from_cloudformation_json(cls, *resource: Any, **_: Any) -> Any:
        _, json, account, region = resource
        return cls(get_backend(account, region), json["Properties"])

    @classmethod
    def update_from_cloudformation_json(cls, **resource: Any) -> Any:
        return cls(get_backend(resource["account_id"], resource["region_name"]), resource["cloudformation_json"]["Properties"])

    @classmethod
    def delete_from_cloudformation_json(cls, *resource: Any) -> None:
        name, _, account, region = resource
        with suppress(UnknownFunctionException):  # it went with its function
            cls.drop(get_backend(account, region), name)

    @classmethod
    def drop(cls, backend: Any, function: str) -> None:
        raise NotImplementedError


class FunctionUrl(_OfFunction, CloudFormationModel):
    __module__ = _AS_IF

    def __init__(self, backend: Any, properties: Any) -> None:
        self.physical_resource_id = properties["TargetFunctionArn"]
        self.url = backend.create_function_url_config(self.physical_resource_id, properties).url

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Lambda::Url"

    def get_cfn_attribute(self, attribute_name: str) -> str:
        assert attribute_name == "FunctionUrl"
        return str(self.url)

    @classmethod
    def drop(cls, backend: Any, function: str) -> None:
        backend.delete_function_url_config(function)


class EventInvokeConfig(_OfFunction, CloudFormationModel):
    __module__ = _AS_IF

    def __init__(self, backend: Any, properties: Any) -> None:
        self.physical_resource_id = properties["FunctionName"]
        backend.put_function_event_invoke_config(self.physical_resource_id, properties)

    @staticmethod
    def cloudformation_type() -> str:
        return "AWS::Lambda::EventInvokeConfig"

    @classmethod
    def drop(cls, backend: Any, function: str) -> None:
        backend.delete_function_event_invoke_config(function)


def _execute_change_set(self: CloudFormationBackend, change_set_name: str, stack_name: str | None = None) -> None:
    """A stack has what its new template puts out, not what its first one did."""
    _EXECUTE(self, change_set_name, stack_name)
    for stack in self.stacks.values():
        stack._parse_template()
        stack.output_map = stack._create_output_map()


def _update_role(cls: type[Role], original_resource: Role, *_: str, **resource: Any) -> Role:
    """A role may do what the new template says, not what its first one did."""
    for policy in resource["cloudformation_json"]["Properties"]["Policies"]:
        original_resource.put_policy(policy["PolicyName"], policy["PolicyDocument"])
    return original_resource


Role.update_from_cloudformation_json = classmethod(_update_role)  # type: ignore[assignment]
_EXECUTE = CloudFormationBackend.execute_change_set
CloudFormationBackend.execute_change_set = _execute_change_set


if __name__ == "__main__":
    main(["-H", "127.0.0.1", "-p", sys.argv[1]])
