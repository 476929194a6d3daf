"""`archive restore` as a user runs it: killed anywhere, refused where rows would count twice, told in the audit."""

import json
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import processes
from tierkeeper.demo.certificates import issue
from tierkeeper.kernel.faults import Point
from vault import House


def execute(house: House, statement: str, tier: str = "main") -> Sequence[Any]:
    link = {"main": house.tiers.main, "core": house.tiers.core, "archive": house.tiers.catalog}[tier]
    with closing(link.connect("app")) as conn:
        cur = conn.execute(statement.encode())
        return cur.fetchall() if cur.description else []


def restore(house: House, *more: str, die_at: Point | None = None) -> tuple[int, dict[str, Any]]:
    arguments = ["archive", "restore", "public.events", "--json", *more]
    ended = processes.command(arguments, house.tiers.environment, die_at=die_at)
    return ended.returncode, json.loads(ended.stdout) if ended.stdout else {}


def test_killed_anywhere_it_leaves_nothing_and_runs_again(filled: House) -> None:
    """I5: what a killed run staged goes with its session; the next one ends as if there had been none."""
    content = "SELECT md5(string_agg(b::text, '|' ORDER BY id)), count(*) FROM public.back AS b"
    execute(filled, "CREATE TABLE public.back (LIKE public.events INCLUDING ALL)")
    execute(filled, "INSERT INTO public.back VALUES (3, '2024-01-01', 'a', 'mine'), (5000, '2024-01-01', 'b', 'own')")
    before = execute(filled, content)
    for point in (Point.RESTORE_STAGED, Point.RESTORE_BEFORE_COMMIT):
        code, _ = restore(filled, "--to", "public.back", "--on-conflict", "replace", die_at=point)
        assert code == -9
        assert execute(filled, content) == before
    code, told = restore(filled, "--to", "public.back", "--on-conflict", "replace")
    assert (code, told["rows"], told["inserted"], told["skipped"], told["replaced"]) == (0, 191, 190, 0, 1)
    assert sorted(r[0] for r in execute(filled, "SELECT id FROM public.back")) == [*range(1, 192), 5000]
    audited = execute(filled, "SELECT kind, detail FROM tierkeeper.audit WHERE verb = 'restore' ORDER BY id")
    assert [kind for kind, _ in audited] == ["intent", "intent", "intent", "outcome"]
    assert audited[-1][1] == {"rows": 191, "inserted": 190, "skipped": 0, "replaced": 1}
    code, told = restore(filled, "--to", "public.few", "--key", "8", "--key", "100", "--key", "1999")
    assert (code, told["rows"], told["notes"]) == (
        0,
        2,
        ["1 of the keys are not among these rows: they are compared as Postgres writes them"],
    )
    assert execute(filled, "SELECT id FROM public.few ORDER BY id") == [(8,), (100,)]
    code, told = restore(filled, "--to", "public.none", "--key", "eight")
    assert (code, told["error"]["place"], execute(filled, "SELECT to_regclass('public.none')")) == (2, "--key", [(None,)])


def test_a_table_that_tierkeeper_moves_takes_nothing(filled: House) -> None:
    """I2: rows restored into it, into what it is a part of, or where it is not there, would count twice."""
    execute(filled, "CREATE TABLE public.above (LIKE public.events INCLUDING ALL) PARTITION BY RANGE (id)")
    execute(filled, "ALTER TABLE public.above ATTACH PARTITION public.events DEFAULT")
    for to, how in (
        ("public.events", ["--on-conflict", "replace"]),
        ("public.events", []),
        ("public.above", ["--on-conflict", "skip"]),
        ("public.kinds", ["--on-conflict", "skip"]),
    ):
        code, told = restore(filled, "--to", to, *how)
        assert code == 2
        assert "would count twice" in told["error"]["cause"]
        assert "archive thaw" in told["error"]["remedy"]
    filled.nothing_is_lost_or_doubled()
    execute(filled, "DROP TABLE public.events CASCADE", "core")
    code, told = restore(filled, "--to", "events", "--tier", "core")
    assert code == 2
    assert "would count twice" in told["error"]["cause"]
    code, told = restore(filled, "--to", "./new.csv", "--on-conflict", "skip")
    assert (code, told["error"]["place"]) == (2, "--on-conflict"), "a file has no rows before"


def test_another_server_takes_rows_whether_main_is_there_or_not(filled: House) -> None:
    """The catalog's server stands for it: no tier, so that its table of the same name is nobody's but its owner's."""
    there = f"{filled.tiers.catalog.url}?sslrootcert={filled.tiers.catalog.sslrootcert}"
    code, told = restore(filled, "--to", "public.events", "--on", there)
    assert (code, told["rows"], told["on"]) == (0, 191, filled.tiers.catalog.shown)
    audited = execute(filled, "SELECT detail->>'on', detail->>'tier' FROM tierkeeper.audit WHERE verb = 'restore'")
    assert audited[0] == (filled.tiers.catalog.shown, None)
    text = filled.config.read_text()
    filled.config.write_text(text.replace(filled.tiers.main.url, "postgresql://u:x@127.0.0.1:1/gone"))
    code, told = restore(filled, "--to", "public.events", "--on", there, "--on-conflict", "replace")
    assert (code, told["inserted"], told["replaced"]) == (0, 0, 191)
    assert execute(filled, "SELECT count(*), min(id), max(id) FROM public.events", "archive") == [(191, 1, 191)]
    filled.config.write_text(text)
    for link in (filled.tiers.main, filled.tiers.core):
        code, told = restore(filled, "--to", "public.events", "--on", link.url, "--on-conflict", "skip")
        assert code == 2, "a tier by another address is that tier"
        assert "would count twice" in told["error"]["cause"]


def test_a_server_that_nothing_verifies_is_refused(filled: House) -> None:
    """I6; and whatever is said of an address, its password is not."""
    wrong = issue(filled.tiers.home / "tls").ca_file
    catalog = filled.tiers.catalog.url
    for url, more, place, cause in (
        ("postgresql://u:geheim@db.example.com/x?sslmode=disable", [], "--on", "over a link that anyone can read"),
        ("https://u:geheim@example.supabase.co", [], "--on", "not of a database"),
        (f"{catalog}?sslrootcert={wrong}", [], f"--on ({filled.tiers.catalog.shown})", "certificate verify failed"),
        (catalog, ["--tier", "main"], "--on, --tier", "both say"),
    ):
        code, told = restore(filled, "--to", "public.back", "--on", url, *more)
        assert (code, told["error"]["place"]) == (2, place)
        assert cause in told["error"]["cause"]
        assert "geheim" not in json.dumps(told)
    code, told = restore(filled, "--to", "./back.csv", "--on", catalog)
    assert (code, told["error"]["place"]) == (2, "--on, --to")
