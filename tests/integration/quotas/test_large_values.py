"""Tables with large values: TOAST that rows have left stays in the tier's size, and is no reason to keep its other rows there."""

from contextlib import closing

from support import Tiers, tierkeeper_toml
from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.tiers.profile import SELF_HOSTED
from tierkeeper.tiers.usage import measure

LOGS = {"name": "public.logs", "age": "at", "core": "100 years"}

MAKE = (
    "CREATE TABLE public.logs (id bigint PRIMARY KEY, at timestamptz NOT NULL, body text, document text)",
    "ALTER TABLE public.logs ALTER document SET STORAGE external",
    """
    INSERT INTO public.logs
    SELECT i, timestamptz '2024-01-01 00:00+00' + i * interval '1 minute', repeat(md5(i::text), 10),
           CASE WHEN i > 19000 THEN repeat(md5(i::text), 125) END
    FROM generate_series(1, 20000) AS i
    """,
    "UPDATE public.logs SET document = NULL WHERE id % 4 > 0 AND id > 19000",
    "VACUUM ANALYZE public.logs",
)
"""20,000 rows of 10 MB, and 6 MB of TOAST of which a quarter is left, here and there: VACUUM cannot cut it."""


def test_toast_that_only_a_rewrite_gives_back_keeps_no_row_in_a_tier_that_is_too_full(tiers: Tiers) -> None:
    """However much of it there is, its provider counts it: without it the tier would be full, and the run content."""
    with closing(tiers.core.connect("app")) as core, closing(tiers.main.connect("app")) as main:
        for statement in MAKE:
            core.execute(statement.encode())
        used = measure(core, SELF_HOSTED).used_bytes
        quota = int(used / 0.9)
        file = tierkeeper_toml(tiers, [LOGS], quotas={"core": f"{quota}B"})
        keeper = open_keeper(load(file, {}, tiers.home), environment=tiers.environment, batch_rows=10_000)
        (would,) = keeper.quota(dry_run=True).choices
        assert would.rows > 1_000
        result = keeper.quota()
        assert any("of its TOAST" in note or "TOAST can only be rewritten" in note for note in result.notes)
        assert result.errors == []
        left = sum(m.rows for m in result.moves if m.to == "main")
        assert 0.5 < would.rows / left < 2, "the dry run said about as many"
        assert measure(core, SELF_HOSTED).used_bytes < 0.85 * quota, result.notes
        ids = [i for conn in (core, main) for (i,) in conn.execute("SELECT id FROM public.logs").fetchall()]
        assert sorted(ids) == list(range(1, 20_001))
