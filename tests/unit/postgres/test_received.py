"""The kernel's own count of what came over a connection."""

import os
import socket
import sys

import pyarrow as pa
import pytest

from tierkeeper.postgres.received import Received, of_socket


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts")
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_every_byte_of_a_tcp_connection_is_counted(host: str) -> None:
    try:
        server = socket.create_server((host, 0), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError:
        pytest.skip(f"this machine has no {host}")
    with server, socket.create_connection(server.getsockname()[:2]) as ours:
        theirs, _ = server.accept()
        with theirs:
            theirs.sendall(b"x" * 100_000)
            left = 100_000
            while left:
                left -= len(ours.recv(left))
            assert of_socket(ours.fileno()) == 100_000
            assert of_socket(theirs.fileno()) == 0
            ours.sendall(b"still open: it was only looked at")


def test_what_is_no_tcp_connection_counts_nothing() -> None:
    one, other = socket.socketpair()
    with one, other:
        other.sendall(b"x")
        assert of_socket(one.fileno()) == 0
    read, write = os.pipe()
    assert of_socket(read) == 0
    os.close(read)
    os.close(write)
    assert of_socket(-1) == 0


def test_a_stream_counts_what_it_hands_over_and_how_it_came() -> None:
    received = Received()
    batch = pa.record_batch({"a": pa.array(range(1000), pa.int64())})
    reader = received.counted(pa.RecordBatchReader.from_batches(batch.schema, [batch, batch]))
    assert reader.read_all().num_rows == 2000
    assert received.take() == 2_000 * (8 + 4 + 7), "a value, its length, and what each row has beside them"
    assert received.take() == 0
