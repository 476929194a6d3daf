"""Counts what this process has received from a server: what its provider bills as egress. It asks the server nothing.

The kernel counts for each TCP connection; it is asked once, when the connection ends, so that nothing is paid for a row.
"""

import os
import socket
import struct
from contextlib import closing, suppress
from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

_BYTES_RECEIVED: Final = 128  # where Linux has tcpi_bytes_received in its struct tcp_info, since 4.1
_INFO_BYTES: Final = _BYTES_RECEIVED + 8
_ROW_BYTES: Final = 7  # of a binary COPY: a message's kind and length, and the number of columns
_LENGTH_BYTES: Final = 4  # before each value


class Received:
    """Bytes that came from one tier. Several threads add to it."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._bytes = 0

    def add(self, received_bytes: int) -> None:
        with self._lock:
            self._bytes += received_bytes

    @property
    def so_far(self) -> int:
        """What `take` would give."""
        return self._bytes

    def take(self) -> int:
        """What has come since it was last asked."""
        with self._lock:
            taken, self._bytes = self._bytes, 0
        return taken

    def counted(self, reader: "pa.RecordBatchReader") -> "pa.RecordBatchReader":
        """`reader`, whose batches count: for a driver that hides its socket, and which hands over what it received as Arrow."""
        import pyarrow as pa

        def batches() -> "Iterator[pa.RecordBatch]":
            for batch in reader:
                self.add(batch.nbytes + batch.num_rows * framed)
                yield batch

        framed = _frame_bytes(reader.schema)
        return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _frame_bytes(schema: "pa.Schema") -> int:
    """What each row of a binary COPY has beside its values, less what Arrow has of that as well: the offsets of long values."""
    import pyarrow as pa

    return _ROW_BYTES + sum(0 if pa.types.is_string(t) or pa.types.is_binary(t) else _LENGTH_BYTES for t in schema.types)


def of_socket(descriptor: int) -> int:
    """Bytes that the peer has sent over a TCP connection, TLS included; 0 for another socket or where nobody counts."""
    with suppress(OSError, AttributeError, struct.error), closing(socket.socket(fileno=os.dup(descriptor))) as asked:
        if asked.family not in (socket.AF_INET, socket.AF_INET6):
            return 0
        info = asked.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        return int(struct.unpack_from("=Q", info, _BYTES_RECEIVED)[0])
    return 0
