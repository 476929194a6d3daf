"""Rows that foreign keys join leave Core together or not at all, and at no instant is there an orphan in either tier.

The oracle counts the application's own rows through connections of its own; it never reads the schema `tierkeeper`.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import Any

import psycopg
import pytest

import graphs
from graphs import BEFORE
from support import Tiers
from tierkeeper.kernel import faults
from tierkeeper.kernel.errors import UsageError
from tierkeeper.kernel.faults import Point
from tierkeeper.kernel.tables import TableName
from tierkeeper.mover import bundle
from tierkeeper.mover.destination import PostgresDestination
from tierkeeper.mover.references import Explorer
from tierkeeper.postgres.link import Connection

OLD, YOUNG = "timestamptz '2024-01-01 00:00+00'", "now()"


class House(graphs.House):
    """With a policy for every table."""

    def where(self, table: str, tier: str) -> int:
        return len(self.rows(tier, table))


@contextmanager
def house(
    tiers: Tiers, ddl: str, tables: Sequence[str], mirrors: Sequence[str] = (), batch_rows: int = 25_000
) -> Iterator[House]:
    policies: list[Mapping[str, str]] = [{"name": f"public.{m}", "mode": "mirror"} for m in mirrors]
    policies += [{"name": f"public.{t}", "age": "at", "core": "30 days"} for t in tables]
    with graphs.house(tiers, policies, tables, make=ddl, batch_rows=batch_rows) as opened:
        yield House(**vars(opened))


FAMILY = f"""
CREATE TABLE public.p (id int PRIMARY KEY, at timestamptz NOT NULL, code text UNIQUE);
CREATE TABLE public.c (id int PRIMARY KEY, at timestamptz NOT NULL, p int REFERENCES public.p {{action}});
CREATE TABLE public.g (id int PRIMARY KEY, at timestamptz NOT NULL, c int REFERENCES public.c {{action}});
CREATE INDEX ON public.c (p);
INSERT INTO public.p SELECT i, {OLD} + i * interval '1 hour', 'code ' || i FROM generate_series(1, 100) AS i;
INSERT INTO public.c SELECT i, {OLD}, 1 + i % 90 FROM generate_series(1, 300) AS i;
INSERT INTO public.g SELECT i, {OLD}, 1 + i % 250 FROM generate_series(1, 500) AS i;
"""
ACTIONS = ("", "ON DELETE RESTRICT", "ON DELETE CASCADE", "ON DELETE SET NULL", "ON DELETE SET DEFAULT",
           "ON DELETE NO ACTION DEFERRABLE INITIALLY DEFERRED")  # fmt: skip


@pytest.mark.parametrize("action", ACTIONS)
def test_three_levels_go_together_whatever_their_action(tiers: Tiers, action: str) -> None:
    with house(tiers, FAMILY.format(action=action), ("p", "c", "g")) as h:
        before = h.everywhere()
        done = h.move("p")
        assert (done.rows, done.stopped_because) == (900, "complete")
        assert h.everywhere() == before
        assert [h.where(t, "core") for t in h.tables] == [0, 0, 0]


@pytest.mark.parametrize("action", ACTIONS[2:5])
def test_a_young_row_keeps_all_that_hangs_on_it(tiers: Tiers, action: str) -> None:
    with house(tiers, FAMILY.format(action=action), ("p", "c", "g")) as h:
        h.core.execute("UPDATE public.g SET at = now() WHERE id = 7")
        kept = h.core.execute("SELECT p FROM public.c JOIN public.g ON g.c = c.id WHERE g.id = 7").fetchone()
        before = h.everywhere()
        plan = h.keeper.plan_move(TableName("public", "p"), "core", "main", before=BEFORE)
        done = h.move("p")
        assert plan.rows == done.rows
        assert any("rows of public.g may not leave yet" in n for n in plan.notes)
        assert done.stopped_because.startswith("referenced: 1 groups")
        assert h.everywhere() == before
        assert h.core.execute("SELECT id FROM public.p").fetchall() == [kept]
        assert h.core.execute("SELECT count(DISTINCT p), min(p) FROM public.c").fetchone() == (1, kept[0] if kept else 0)


SHAPES = f"""
CREATE TABLE public.kinds (kind text PRIMARY KEY);
INSERT INTO public.kinds VALUES ('a'), ('b');
-- a tree, each row below the one of half its number; 1 to 7 are roots
CREATE TABLE public.tree (id int PRIMARY KEY, at timestamptz NOT NULL, up int REFERENCES public.tree ON DELETE CASCADE);
INSERT INTO public.tree SELECT i, {OLD}, CASE WHEN i > 7 THEN i / 2 END FROM generate_series(1, 200) AS i;
UPDATE public.tree SET at = now() WHERE id = 130;
-- a circle of two tables: a team's lead is one of its members
CREATE TABLE public.team (id int PRIMARY KEY, at timestamptz NOT NULL, lead int);
CREATE TABLE public.member (id int PRIMARY KEY, at timestamptz NOT NULL, team int NOT NULL REFERENCES public.team);
ALTER TABLE public.team ADD FOREIGN KEY (lead) REFERENCES public.member DEFERRABLE;
INSERT INTO public.team SELECT i, {OLD}, NULL FROM generate_series(1, 20) AS i;
INSERT INTO public.member SELECT i, {OLD}, 1 + i % 20 FROM generate_series(1, 100) AS i;
UPDATE public.team SET lead = (SELECT min(id) FROM public.member WHERE team = team.id);
-- many to many between posts and tags, a mirrored kind beside, a key of two columns that is no primary key, and NULLs in it
CREATE TABLE public.post (id int PRIMARY KEY, at timestamptz NOT NULL, a int, b text, UNIQUE (a, b));
CREATE TABLE public.tag (id int PRIMARY KEY, at timestamptz NOT NULL, kind text REFERENCES public.kinds);
CREATE TABLE public.tagging (id int PRIMARY KEY, at timestamptz NOT NULL, post int REFERENCES public.post ON DELETE CASCADE,
    tag int REFERENCES public.tag ON DELETE RESTRICT, a int, b text, FOREIGN KEY (a, b) REFERENCES public.post (a, b));
INSERT INTO public.post SELECT i, {OLD}, i, 'b' FROM generate_series(1, 60) AS i;
INSERT INTO public.tag SELECT i, {OLD}, 'a' FROM generate_series(1, 30) AS i;
INSERT INTO public.tagging
SELECT i, {OLD}, i, 1 + i / 4, nullif(i, 8), CASE WHEN i <> 9 THEN 'b' END FROM generate_series(1, 60) AS i;
UPDATE public.tag SET at = now() WHERE id = 5;
"""
SHAPED = ("tree", "team", "member", "post", "tag", "tagging")


def orphans(conn: Connection) -> int:
    """Rows whose parent is not in the same tier."""
    row = conn.execute("""
        SELECT (SELECT count(*) FROM tree AS c WHERE up IS NOT NULL AND NOT EXISTS (SELECT FROM tree AS p WHERE p.id = c.up))
             + (SELECT count(*) FROM team AS c WHERE lead > 0 AND NOT EXISTS (SELECT FROM member AS p WHERE p.id = c.lead))
             + (SELECT count(*) FROM member AS c WHERE NOT EXISTS (SELECT FROM team AS p WHERE p.id = c.team))
             + (SELECT count(*) FROM tag AS c WHERE NOT EXISTS (SELECT FROM kinds AS p WHERE p.kind = c.kind))
             + (SELECT count(*) FROM tagging AS c WHERE NOT EXISTS (SELECT FROM post AS p WHERE p.id = c.post))
             + (SELECT count(*) FROM tagging AS c WHERE NOT EXISTS (SELECT FROM tag AS p WHERE p.id = c.tag))
             + (SELECT count(*) FROM tagging AS c
                WHERE a + length(b) > 0 AND NOT EXISTS (SELECT FROM post AS p WHERE (p.a, p.b) = (c.a, c.b)))
    """).fetchone()
    return int(str(row[0])) if row else -1


def test_trees_circles_and_many_to_many(tiers: Tiers) -> None:
    """In bundles of a few rows, so that what hangs together decides, not the batch."""
    with house(tiers, SHAPES, SHAPED, ("kinds",), batch_rows=120) as h:
        before = h.everywhere()
        done = {t: h.move(t) for t in ("tree", "team", "tagging", "tag")}
        assert h.everywhere() == before
        assert (orphans(h.core), orphans(h.main)) == (0, 0)
        assert done["team"].stopped_because == "complete"
        assert (h.where("team", "core"), h.where("member", "core")) == (0, 0)
        # 130 is young: 65, 32, 16, 8, 4 are above it, and all of 4's tree stays
        tree = (
            "WITH RECURSIVE t AS (SELECT 4 AS id UNION SELECT c.id FROM tree c JOIN t ON c.up = t.id) SELECT array_agg(id) FROM t"
        )
        assert set(h.core.execute("SELECT array_agg(id) FROM tree").fetchone()[0]) == set(h.core.execute(tree).fetchone()[0])  # type: ignore[index]
        assert done["tree"].stopped_because.startswith("referenced")
        # tag 5 is young, its taggings are of posts 16 to 19
        assert h.core.execute("SELECT array_agg(id ORDER BY id) FROM post").fetchone() == ([16, 17, 18, 19],)
        assert h.core.execute("SELECT array_agg(id) FROM tag").fetchone() == ([5],)
        h.keeper.setup(apply=True)
        assert h.seen() == [len(before[table]) for table in SHAPED]


def test_more_rows_than_a_bundle_holds_stay_together(tiers: Tiers) -> None:
    with house(tiers, FAMILY.format(action="ON DELETE CASCADE"), ("p", "c", "g"), batch_rows=50) as h:
        h.core.execute("UPDATE public.c SET p = 1 WHERE id <= 40")
        before = h.everywhere()
        done = h.move("p")
        assert h.everywhere() == before
        assert any("more than 50 rows hang together" in n for n in done.notes)
        assert h.where("p", "core") == 1
        assert h.core.execute("SELECT count(*) FROM public.c WHERE p <> 1").fetchone() == (0,)


def test_a_limit_takes_whole_groups_and_no_row_more(tiers: Tiers) -> None:
    with house(tiers, FAMILY.format(action=""), ("p", "c", "g")) as h:
        before = h.everywhere()
        done = h.move("p", limit=33)
        assert 0 < done.rows <= 33
        assert done.stopped_because == "row limit"
        assert h.everywhere() == before
        assert sum(h.where(t, "main") for t in h.tables) == done.rows


def test_rows_of_a_table_that_stays_keep_what_they_refer_to(tiers: Tiers) -> None:
    more = "CREATE TABLE star (id int PRIMARY KEY, p int REFERENCES p ON DELETE CASCADE); INSERT INTO star VALUES (1, 3);"
    with house(tiers, FAMILY.format(action="") + more, ("p", "c", "g"), ("star",)) as h:
        before = h.everywhere()
        done = h.move("p")
        assert h.everywhere() == before
        assert h.core.execute("SELECT array_agg(id) FROM p").fetchone() == ([3],)
        assert any("star_p_fkey of public.star (ON DELETE CASCADE)" in n for n in done.notes)
        assert h.core.execute("SELECT count(*) FROM star").fetchone() == (1,)


def test_a_table_that_nobody_named_is_asked_for(tiers: Tiers) -> None:
    with house(tiers, FAMILY.format(action=""), ("p",)) as h:
        before = h.rows("core", "p")
        with pytest.raises(UsageError, match=r"c_p_fkey of public\.c"):
            h.move("p")
        assert (h.rows("core", "p"), h.rows("main", "p")) == (before, [])


def test_a_circle_at_main_that_is_checked_row_by_row_is_refused(tiers: Tiers) -> None:
    with house(tiers, SHAPES, SHAPED, ("kinds",)) as h:
        h.main.execute("""
            CREATE TABLE team (id int PRIMARY KEY, at timestamptz NOT NULL, lead int);
            CREATE TABLE member (id int PRIMARY KEY, at timestamptz NOT NULL, team int NOT NULL REFERENCES team);
            ALTER TABLE team ADD FOREIGN KEY (lead) REFERENCES member;
        """)
        with pytest.raises(UsageError, match="circle") as refused:
            h.move("team")
        assert "ALTER CONSTRAINT member_team_fkey DEFERRABLE" in refused.value.remedy
        for fk, table in (("member_team_fkey", "member"), ("team_lead_fkey", "team")):
            h.main.execute(f"ALTER TABLE {table} ALTER CONSTRAINT {fk} DEFERRABLE".encode())
        assert h.move("team").rows == 120


@pytest.mark.parametrize(
    ("action", "point"),
    [
        ("", Point.MARKER_OPEN), ("", Point.COPIED), ("ON DELETE CASCADE", Point.COPIED), ("ON DELETE SET NULL", Point.COPIED),
        ("ON DELETE CASCADE", Point.DELETE_BEFORE_COMMIT),
    ],
)  # fmt: skip
def test_a_child_that_comes_meanwhile(tiers: Tiers, action: str, point: Point) -> None:
    """I4: before the delete it goes with its parent in another try; beside the delete it waits, as for any delete."""
    with house(tiers, FAMILY.format(action=action), ("p", "c", "g")) as h, closing(tiers.core.connect("test")) as app:
        before, came = h.everywhere(), []

        def hook(reached: Point) -> None:
            if reached is point and not came:
                came.append(True)
                app.execute("SET lock_timeout = '100ms'")
                try:
                    app.execute("INSERT INTO public.c VALUES (1000, '2024-01-02', 50)")
                    before["c"] = h.rows("core", "c")
                except psycopg.errors.LockNotAvailable:
                    assert point is Point.DELETE_BEFORE_COMMIT

        faults.arm(hook)
        done = h.move("p")
        faults.disarm()
        assert came and done.stopped_because == "complete"
        assert h.everywhere() == before
        assert sum(h.where(t, "core") for t in h.tables) == 0


def test_a_key_in_both_tiers_keeps_all_that_hangs_on_its_row(tiers: Tiers) -> None:
    with house(tiers, FAMILY.format(action="ON DELETE CASCADE"), ("p", "c", "g")) as h:
        assert h.move("p", where="id > 95 AND id < 98").rows == 2
        h.core.execute("INSERT INTO p VALUES (96, '2024-01-01', 'again'); INSERT INTO c VALUES (2000, '2024-01-01', 96)")
        before = h.everywhere()
        done = h.move("c")
        assert done.conflicts == ["public.p: 96"]
        assert h.everywhere() == before
        assert h.core.execute("SELECT array_agg(id) FROM c").fetchone() == ([2000],)
        assert h.core.execute("SELECT count(*) FROM p WHERE id <= 90").fetchone() == (0,)


def test_a_limited_run_does_not_look_at_what_is_younger(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A group that does not fit ends it: 100 groups are left, and those of a bundle or two are looked at."""
    with house(tiers, FAMILY.format(action=""), ("p", "c", "g"), batch_rows=40) as h:
        looks = [0]
        find = Explorer.find

        def counted(*args: Any, **more: Any) -> Any:
            looks[0] += 1
            return find(*args, **more)

        monkeypatch.setattr(Explorer, "find", counted)
        done = h.move("p", limit=33)
        assert 0 < done.rows <= 33
        assert looks[0] < 10


def test_a_bundle_is_bounded_by_bytes_and_weighed_whole(tiers: Tiers, monkeypatch: pytest.MonkeyPatch) -> None:
    """I9: the rows that go along count, in the plan too; one group is not cut, however large it is."""
    with house(tiers, FAMILY.format(action=""), ("p", "c", "g"), batch_rows=5000) as h:
        for table in ("p", "c", "g"):
            h.core.execute(f"ANALYZE {table}".encode())
        narrow = h.keeper.plan_move(TableName("public", "p"), "core", "main", before=BEFORE)
        h.core.execute("ALTER TABLE g ADD wide text; ALTER TABLE g ALTER wide SET STORAGE EXTERNAL")
        h.core.execute("UPDATE g SET wide = repeat(id::text, 10000); ANALYZE g")
        wide = h.core.execute("SELECT sum(length(wide)) FROM g").fetchone()
        plan = h.keeper.plan_move(TableName("public", "p"), "core", "main", before=BEFORE)
        assert wide is not None and plan.bytes is not None and narrow.bytes is not None
        assert 0.5 < (plan.bytes - narrow.bytes) / wide[0] < 1.5
        assert (plan.destination_bytes or 0) > 0.5 * wide[0]
        bundles: list[int] = []
        copy_all = PostgresDestination.copy_all

        def counted(self: PostgresDestination, snapshots: Any) -> Any:
            bundles.append(sum(s.extent.rows for s in snapshots))
            return copy_all(self, snapshots)

        monkeypatch.setattr(PostgresDestination, "copy_all", counted)
        monkeypatch.setattr(bundle, "BATCH_BYTES", wide[0] // 5)
        before = h.everywhere()
        done = h.move("p")
        assert (done.rows, done.stopped_because) == (900, "complete")
        assert h.everywhere() == before
        assert 5 <= len(bundles) < 40 and max(bundles) < 400
