"""The tests' own proxy fails as it is told to: a campaign that rests on it would prove nothing else."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from faultproxy import FaultProxy, How


@pytest.fixture
def proxy() -> Iterator[FaultProxy]:
    """A proxy before a server that echoes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def echo(one: socket.socket) -> None:
            with one:
                try:
                    while data := one.recv(1 << 16):
                        one.sendall(data)
                except OSError:
                    return

        def serve() -> None:
            try:
                while True:
                    threading.Thread(target=echo, args=(listener.accept()[0],), daemon=True).start()
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        with FaultProxy(listener.getsockname()[1]) as made:
            yield made
        listener.shutdown(socket.SHUT_RDWR)


def client(proxy: FaultProxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def read_to_end(one: socket.socket) -> bytes:
    """What comes until the connection ends; raises ConnectionResetError for one that was reset."""
    got = b""
    while data := one.recv(1 << 16):
        got += data
    return got


def test_bytes_go_through_as_they_are(proxy: FaultProxy) -> None:
    sent = bytes(range(256)) * 8192
    with client(proxy) as one:
        writer = threading.Thread(target=lambda: (one.sendall(sent), one.shutdown(socket.SHUT_WR)))
        writer.start()
        assert read_to_end(one) == sent
        writer.join()
    assert proxy.passed_bytes == {"to_server": len(sent), "to_client": len(sent)}


@pytest.mark.parametrize("size_bytes", [0, 1, 7, 70_000])
@pytest.mark.parametrize("how", ["rst", "fin"])
def test_a_cut_lets_exactly_so_many_bytes_through(proxy: FaultProxy, how: How, size_bytes: int) -> None:
    with client(proxy) as one, client(proxy) as other:
        proxy.cut_after(size_bytes, "to_server", how)
        one.sendall(b"x" * 80_000)
        if how == "rst":
            with pytest.raises(ConnectionResetError):
                while read_to_end(one):
                    pass
        else:
            assert len(read_to_end(one)) <= size_bytes
        assert proxy.passed_bytes["to_server"] == size_bytes
        assert proxy.cuts == 1
        other.sendall(b"still there")
        assert other.recv(100) == b"still there"


def test_an_answer_is_lost_while_the_request_arrived(proxy: FaultProxy) -> None:
    with client(proxy) as one:
        proxy.cut_after(0, "to_client", "rst", everything=True)
        one.sendall(b"request")
        with pytest.raises(ConnectionResetError):
            read_to_end(one)
    assert proxy.passed_bytes == {"to_server": 7, "to_client": 0}


def test_held_bytes_arrive_late_even_when_their_sender_is_gone(proxy: FaultProxy) -> None:
    proxy.hold("to_server")
    with client(proxy) as one:
        one.sendall(b"commit")
    time.sleep(0.05)
    assert proxy.passed_bytes["to_server"] == 0
    proxy.heal()
    until = time.monotonic() + 5
    while proxy.passed_bytes["to_server"] < 6 and time.monotonic() < until:
        time.sleep(0.005)
    assert proxy.passed_bytes["to_server"] == 6


def test_a_delay_is_kept_and_the_order_too(proxy: FaultProxy) -> None:
    proxy.delay(0.05)
    with client(proxy) as one:
        began = time.monotonic()
        one.sendall(b"a")
        one.sendall(b"b")
        one.shutdown(socket.SHUT_WR)
        assert read_to_end(one) == b"ab"
        assert time.monotonic() - began >= 0.1


def test_all_connections_are_cut_at_once(proxy: FaultProxy) -> None:
    with client(proxy) as one, client(proxy) as other:
        for each in (one, other):
            each.sendall(b"hello")
            assert each.recv(100) == b"hello"
        proxy.cut_now("fin")
        assert (one.recv(1), other.recv(1)) == (b"", b"")
