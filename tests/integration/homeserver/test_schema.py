"""What the server's own OpenAPI document invites to, and what it does not, drawn by schemathesis: never a fault of the server."""

import hashlib
from contextlib import suppress
from http import HTTPStatus

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.checks import CheckContext, not_a_server_error
from schemathesis.core.transport import Response
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

import home_server
from home_server import HomeServer
from tierkeeper.objectstore.port import put_object

DATA = b"an object that is there"
HEX = hashlib.sha256(DATA).hexdigest()
MUCH_BYTES = 2**30
SAMPLE, LONG = 4, 450  # cases of each operation, well formed and, where it takes anything, not: in the long run over 10,000


def no_fault(context: CheckContext, response: Response, case: schemathesis.Case) -> bool | None:
    """507 says truly that the disk has no room for a large upload, beside those that were announced; nothing else is a fault."""
    announced = response.request.headers.get("Upload-Length", "")
    if response.status_code == HTTPStatus.INSUFFICIENT_STORAGE and int(announced or 0) > MUCH_BYTES:
        return None
    return not_a_server_error(context, response, case)


CHECKS = [no_fault, status_code_conformance, content_type_conformance, response_schema_conformance]


def operations(server: HomeServer) -> list[schemathesis.APIOperation]:
    with server.client(None) as client:
        schema = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
    return [found.ok() for found in schema.get_all_operations()]


@pytest.mark.parametrize("examples", [SAMPLE, pytest.param(LONG, marks=[pytest.mark.long, pytest.mark.timeout(3600)])])
@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_is_a_fault_of_the_server(mode: GenerationMode, examples: int) -> None:
    server = home_server.shared().emptied()
    asked = 0
    url, ca, headers = f"https://127.0.0.1:{server.port}", str(server.root / "server" / "ca.pem"), {}
    headers["Authorization"] = f"Bearer {server.token('admin')}"
    with requests.Session() as session:
        session.trust_env = False
        for operation in operations(server):

            @settings(
                max_examples=examples,
                deadline=None,
                database=None,
                derandomize=examples == SAMPLE,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=operation.as_strategy(mode), there=st.booleans())
            def ask(case: schemathesis.Case, there: bool) -> None:
                nonlocal asked
                asked += 1
                if there and "hex" in (case.path_parameters or {}):
                    put_object(server.store("admin"), "segment", DATA)
                    case.path_parameters = {"kind": "segment", "hex": HEX}
                case.call_and_validate(base_url=url, session=session, checks=CHECKS, headers=headers, verify=ca)

            with suppress(Unsatisfiable):  # what takes nothing cannot be asked wrongly
                ask()
    assert asked >= examples * 8  # some operations take nothing, and are asked once or twice
    assert server.store("admin").report().wrong == {}
