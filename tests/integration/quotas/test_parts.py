"""The quota manager over tables whose rows lie in partitions or children: their space, relation by relation."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

import pytest

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.results import QuotaResult
from tierkeeper.postgres.link import Connection

POLICY = {"name": "public.logs", "age": "at", "core": "100 years"}
MAKE = """
CREATE TABLE public.logs (id bigint, at timestamptz NOT NULL, tag uuid, body text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE INDEX logs_tag ON public.logs (tag);
CREATE TABLE public.logs_jan PARTITION OF public.logs FOR VALUES FROM ('2024-01-01') TO ('2024-02-01') PARTITION BY HASH (id);
CREATE TABLE public.logs_jan_0 PARTITION OF public.logs_jan FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.logs_jan_1 PARTITION OF public.logs_jan FOR VALUES WITH (MODULUS 2, REMAINDER 1);
CREATE TABLE public.logs_feb PARTITION OF public.logs FOR VALUES FROM ('2024-02-01') TO ('2024-03-01');
CREATE TABLE public.logs_few PARTITION OF public.logs FOR VALUES FROM ('2024-03-01') TO ('2024-04-01');
CREATE TABLE public.logs_rest PARTITION OF public.logs DEFAULT;
INSERT INTO public.logs
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '30 seconds', md5(i::text)::uuid, repeat(md5(i::text), 4)
FROM generate_series(1, {rows}) AS i;
INSERT INTO public.logs SELECT i, timestamptz '2024-03-01 00:00+00' + i * interval '1 second' FROM generate_series(1, 1000) AS i
"""
CHILDREN = """
CREATE TABLE public.logs (id bigint PRIMARY KEY, at timestamptz NOT NULL, tag uuid, body text);
CREATE TABLE public.logs_old (PRIMARY KEY (id)) INHERITS (public.logs);
CREATE INDEX ON public.logs_old (tag);
INSERT INTO public.logs_old
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 minute', md5(i::text)::uuid, repeat(md5(i::text), 4)
FROM generate_series(1, 30000) AS i;
INSERT INTO public.logs SELECT 30000 + id, at, tag, body FROM public.logs_old WHERE id < 1000
"""


@dataclass
class House:
    """Three tiers, the application's connections to Core and Main, and a keeper of any policy."""

    tiers: Tiers
    core: Connection
    main: Connection

    def keeper(self, policy: dict[str, str] = POLICY, core: str = "500MB") -> Keeper:
        file = tierkeeper_toml(self.tiers, [policy], quotas={"core": core})
        return open_keeper(load(file, {}, self.tiers.home), environment=self.tiers.environment, batch_rows=10_000)

    def make(self, rows: int) -> None:
        self.core.execute(MAKE.format(rows=rows).encode())

    def contents(self) -> object:
        return self.core.execute("SELECT count(*), sum(hashtextextended(t::text, 0)) FROM public.logs AS t").fetchone()

    def sizes(self) -> dict[str, int]:
        """Of each relation of the application's, in Core."""
        rows = self.core.execute(
            "SELECT relname::text, pg_relation_size(oid) FROM pg_class"
            " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'i')"
        )
        return {str(name): int(str(size)) for name, size in rows}


@pytest.fixture
def house(tiers: Tiers) -> Iterator[House]:
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        yield House(tiers, core, main)


def methods(result: QuotaResult) -> dict[tuple[str, str], str]:
    return {(r.table.removeprefix("public."), r.relation): r.method for r in result.reclaimed}


def test_each_partition_gives_its_space_back_by_its_own_means(house: House) -> None:
    """One half empty, one whole, one untouched, a small one: each relation by what it needs, and no value changed."""
    house.make(100_000)
    house.core.execute("VACUUM ANALYZE public.logs")
    house.core.execute(
        "DELETE FROM public.logs_jan_0; DELETE FROM public.logs_jan_1 WHERE id % 3 <> 0;"
        "DELETE FROM public.logs_few WHERE id % 2 = 0"
    )
    contents, before = house.contents(), house.sizes()
    done = house.keeper().quota()
    after = house.sizes()
    assert done.errors == []
    assert house.contents() == contents
    found = methods(done)
    assert found["logs_jan_1", "heap"] == "tail compaction"
    assert found["logs_jan_1", "logs_jan_1_tag_idx"] == "REINDEX CONCURRENTLY"
    assert found["logs_jan_0", "heap"] == "VACUUM"
    assert after["logs_jan_0"] == 0
    assert after["logs_jan_0_tag_idx"] < before["logs_jan_0_tag_idx"] / 20
    assert after["logs_jan_1"] < 0.45 * before["logs_jan_1"]
    assert {n: s for n, s in after.items() if "feb" in n} == {n: s for n, s in before.items() if "feb" in n}
    assert not [table for table, _ in found if "feb" in table]
    told = sum(r.bytes_before - r.bytes_after for r in done.reclaimed)
    assert told == sum(before.values()) - sum(after.values()), "what came back is not what was told"
    again = house.keeper().quota()
    assert [r for r in again.reclaimed if r.method != "VACUUM"] == [], "a second run finds something to do"


def test_children_give_theirs_back_too(house: House) -> None:
    house.core.execute(CHILDREN.encode())
    house.core.execute("DELETE FROM public.logs WHERE id % 3 <> 0")
    contents, before = house.contents(), house.sizes()
    done = house.keeper().quota()
    assert (done.errors, house.contents()) == ([], contents)
    assert methods(done)["logs_old", "heap"] == "tail compaction"
    assert house.sizes()["logs_old"] < 0.45 * before["logs_old"]


def test_partitions_whose_rows_are_on_the_move_are_left_alone(house: House) -> None:
    """I4: the protocol knows a batch's rows by their versions, and its marker names the whole table."""
    house.make(30_000)
    house.keeper().setup(apply=True)
    house.core.execute("DELETE FROM public.logs WHERE id % 3 <> 0")
    house.core.execute(
        "INSERT INTO tierkeeper.marker (batch, seq, destination, schema_name, table_name, state)"
        " VALUES (gen_random_uuid(), 1, 'main', 'public', 'logs', 'open')"
    )
    versions = "SELECT count(*), sum(hashtextextended(t.xmin::text || t.ctid::text, 0)) FROM public.logs AS t"
    before = house.core.execute(versions.encode()).fetchone()
    done = house.keeper({**POLICY, "core": "100 years"}).quota()
    assert house.core.execute(versions.encode()).fetchone() == before
    assert "on the move" in " ".join(done.notes)


def test_a_publication_of_the_whole_table_keeps_its_partitions_rows_where_they_are(house: House) -> None:
    house.make(30_000)
    house.core.execute("CREATE PUBLICATION news FOR TABLE public.logs WITH (publish_via_partition_root = true)")
    house.core.execute("DELETE FROM public.logs_jan_1 WHERE id % 3 <> 0")
    done = house.keeper().quota()
    assert "tail compaction" not in methods(done).values()
    assert "The publication news would send its updates" in " ".join(done.notes)


def test_a_partitioned_table_counts_with_all_its_partitions(house: House) -> None:
    """Its rows leave early where Core is too full, it is told by status, and from a partitioned Main it goes on."""
    house.make(20_000)
    house.main.execute(MAKE.partition("INSERT")[0].encode())
    house.core.execute("ANALYZE public.logs")
    keeper = house.keeper(core="14MB")
    done = keeper.quota()
    assert sum(m.rows for m in done.moves) > 2_000, done
    status = keeper.status().tables["public.logs"]
    (left,) = house.core.execute("SELECT count(*) FROM public.logs").fetchone() or (0,)
    assert status.core_rows_estimate == left
    assert status.main_rows_estimate == 21_000 - int(str(left))
    house.main.execute("SELECT pg_sleep(1.1)")
    assert [r.table for r in keeper.archive_run(before=None).runs] == []
    config = {"name": "public.logs", "age": "at", "core": "100 years", "main": "101 years"}
    again = house.keeper(config).archive_run()
    assert [r.table for r in again.runs] == ["public.logs"]
