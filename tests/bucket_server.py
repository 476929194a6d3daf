"""A local server that speaks S3's protocol, in a process of its own, one for the whole session."""

import atexit
import subprocess
import sys
from functools import cache
from uuid import uuid4

import httpx

from support import eventually
from tierkeeper.demo.server import free_port

_SERVE = "import sys; from moto.server import main; main(['-H', '127.0.0.1', '-p', sys.argv[1]])"


@cache
def server() -> dict[str, str]:
    """The environment that reaches it."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-c", _SERVE, str(port)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    atexit.register(_end, process)
    url = f"http://127.0.0.1:{port}"
    assert eventually(lambda: _answers(url), 30)
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "us-east-1",
    }


def bucket() -> str:
    """The address of a new bucket, with a prefix."""
    name = f"vault-{uuid4().hex}"
    httpx.put(f"{server()['AWS_ENDPOINT_URL']}/{name}").raise_for_status()
    return f"s3://{name}/home/archive"


def _answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code < 500
    except httpx.TransportError:
        return False


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    process.wait()
