"""Space that does not come back by itself (TOAST, an index without room to be rebuilt) keeps no row in a tier that is too full.

However much of it there is, its provider counts it: without it the tier would be full, and the run content.
"""

from contextlib import closing

import pytest

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.tiers.profile import SELF_HOSTED
from tierkeeper.tiers.usage import measure

LOGS = {"name": "public.logs", "age": "at", "core": "100 years"}

MAKE = """
CREATE TABLE public.logs (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text, document text);
INSERT INTO public.logs
SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 minute', repeat(md5(i::text), 10)
FROM generate_series(1, 20000) AS i;
"""
BY_TOAST = """
ALTER TABLE public.logs ALTER document SET STORAGE external;
UPDATE public.logs SET document = repeat(md5(id::text), 125) WHERE id > 19000;
UPDATE public.logs SET document = NULL WHERE id % 4 > 0 AND id > 19000;
VACUUM ANALYZE public.logs;
"""
"""6 MB, beside rows of 10 MB, of which a quarter is left, here and there: VACUUM cannot cut it."""
BY_INDEX = """
CREATE INDEX ON public.logs (body, id);
DELETE FROM public.logs WHERE id % 2 > 0;
VACUUM ANALYZE public.logs;
"""
"""An index as large as the rows, half of which are left: to build it anew takes more than the quota."""


@pytest.mark.parametrize(("more", "share", "told"), [(BY_TOAST, 0.9, "TOAST"), (BY_INDEX, 1.0, "To build it anew beside itself")])
def test_it_is_told_and_rows_leave(tiers: Tiers, more: str, share: float, told: str) -> None:
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        for statement in (MAKE + more).strip().split(";\n"):
            core.execute(statement.removesuffix(";").encode())
        were = core.execute("SELECT id FROM public.logs ORDER BY id").fetchall()
        quota = int(measure(core, SELF_HOSTED).used_bytes / share)
        file = tierkeeper_toml(tiers, [LOGS], quotas={"core": f"{quota}B"})
        keeper = open_keeper(load(file, {}, tiers.home), environment=tiers.environment, batch_rows=10_000)
        (would,) = keeper.quota(dry_run=True).choices
        assert would.rows > 1_000
        result = keeper.quota()
        assert any("did not come back" in note and told in note for note in result.notes)
        assert result.errors == []
        left = sum(m.rows for m in result.moves if m.to == "main")
        assert 0.5 * left < would.rows < 2 * left, "the dry run said about as many"
        assert measure(core, SELF_HOSTED).used_bytes < 0.85 * quota, result.notes
        assert sorted(row for conn in (core, main) for row in conn.execute("SELECT id FROM public.logs").fetchall()) == were
