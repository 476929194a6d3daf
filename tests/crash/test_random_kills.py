"""SIGKILL at any moment, over and over, while the application writes; then one run to the end (I1, I3, I4, I5)."""

import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress

import psycopg
import pytest

import processes
from support import Tiers, tierkeeper_toml

POLICY = (
    {"name": "public.kinds", "mode": "mirror"},
    {"name": "public.events", "age": "at", "core": "30 days", "main": "60 days"},
)
UPDATE = "UPDATE public.events SET body = %s WHERE id = %s"
DELETE = "DELETE FROM public.events WHERE id = %s AND id %% 7 = 0"
REFILL = "INSERT INTO public.events SELECT i, '2024-01-15', 'b', 'more' FROM generate_series(%s, %s) AS i"
BATCH_ROWS = 100


class Application:
    """Writes to its old rows in Core and remembers what Postgres acknowledged: the truth that the tiers must hold."""

    def __init__(self, tiers: Tiers, seed: int) -> None:
        self._tiers = tiers
        self._random = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write)
        with closing(tiers.core.connect("oracle")) as conn:
            self.believed: dict[int, str | None] = dict(conn.execute("SELECT id, body FROM public.events").fetchall())  # type: ignore[arg-type]
        self.refills = 0

    def __enter__(self) -> "Application":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _write(self) -> None:
        fresh = 1_000_000
        with closing(self._tiers.core.connect("app")) as conn:
            while not self._ended.is_set():
                key, body = self._random.randint(1, 1200), f"written {self._random.random()}"
                kind = self._random.choice(("update", "update", "delete", "insert"))
                if kind == "update" and conn.execute(UPDATE, (body, key)).rowcount:
                    self.believed[key] = body
                elif kind == "delete" and conn.execute(DELETE, (key,)).rowcount:
                    del self.believed[key]
                elif kind == "insert":
                    fresh += 1
                    conn.execute("INSERT INTO public.events VALUES (%s, '2024-02-01', 'a', %s)", (fresh, body))
                    self.believed[fresh] = body
                time.sleep(0.002)


def found(tiers: Tiers, archived: "Counter[tuple[int, str | None]]") -> "Counter[tuple[int, str | None]]":
    rows = Counter(archived)
    for link in (tiers.core, tiers.main):
        with closing(link.connect("oracle")) as conn, suppress(psycopg.errors.UndefinedTable):
            rows.update(conn.execute("SELECT id, body FROM public.events").fetchall())  # type: ignore[arg-type]
    return rows


def campaign(tiers: Tiers, kills: int, seconds: float, seed: int) -> int:
    """Kills up to `kills` runs within `seconds`. Returns how many were killed before their end."""
    config = tierkeeper_toml(tiers, POLICY, query_timeout="1 second")
    assert processes.command(["setup", "--apply", "--config", str(config)], tiers.environment).returncode == 0
    chance, killed, until = random.Random(seed), 0, time.monotonic() + seconds  # noqa: S311
    with Application(tiers, seed) as app:
        while killed < kills and time.monotonic() < until:
            process = processes.move_in_small_batches(config, tiers.environment, BATCH_ROWS)
            process.join(chance.uniform(0.05, 0.9))
            process.kill()
            process.join()
            killed += process.exitcode == -9
            with closing(tiers.core.connect("oracle")) as conn:
                left = conn.execute("SELECT count(*) FROM public.events WHERE at < '2024-02-20'").fetchone()
            if left is not None and int(str(left[0])) < 100:
                refill(tiers, app)
    settle(tiers, str(config))
    archived = restored(tiers, str(config))
    rows = found(tiers, archived)
    assert rows == Counter(app.believed.items())
    return killed


def refill(tiers: Tiers, app: Application) -> None:
    """More old rows, so that there is always something to move."""
    app.refills += 1
    first = 10_000_000 + app.refills * 1_000
    with closing(tiers.core.connect("app")) as conn:
        conn.execute(REFILL, (first, first + 999))
    app.believed.update((i, "more") for i in range(first, first + 1000))


def settle(tiers: Tiers, config: str) -> None:
    hop = ["move", "public.events", "--before", "2024-02-20", "--config", config]
    assert processes.command([*hop, "--from", "core", "--to", "main"], tiers.environment).returncode == 0
    time.sleep(1.2)
    assert processes.command([*hop, "--from", "main", "--to", "archive"], tiers.environment).returncode == 0


def restored(tiers: Tiers, config: str) -> "Counter[tuple[int, str | None]]":
    """The archive's rows, restored into a table of the application's."""
    command = ["archive", "restore", "public.events", "--to", "public.back", "--config", config]
    done = processes.command(command, tiers.environment)
    assert done.returncode == 0, done.stderr
    with closing(tiers.main.connect("oracle")) as conn:
        return Counter(conn.execute("SELECT id, body FROM public.back").fetchall())  # type: ignore[arg-type]


def test_a_few_kills(make_tiers: Callable[..., Tiers]) -> None:
    assert campaign(make_tiers(core="events"), kills=20, seconds=12, seed=1) >= 5


@pytest.mark.long
@pytest.mark.parametrize("seed", range(20))
def test_many_kills(make_tiers: Callable[..., Tiers], seed: int) -> None:
    assert campaign(make_tiers(core="events"), kills=50, seconds=120, seed=seed) >= 25
