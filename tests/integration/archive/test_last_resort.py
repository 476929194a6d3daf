"""When something is gone for good: Main, or the key. What the archive still gives, and what must not be made worse."""

import gc
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from support import Tiers, TiersFactory, eventually, tierkeeper_toml
from tierkeeper.compose import Keeper, open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import Faults, NotNow, UsageError
from tierkeeper.kernel.tables import TableName
from tierkeeper.postgres.session import Session

EVENTS = TableName("public", "events")
POLICY = ({"name": "public.kinds", "mode": "mirror"}, {"name": "public.events", "age": "at", "core": "30 days"})


@pytest.fixture
def tiers(make_tiers: TiersFactory) -> Tiers:
    """239 events in the archive."""
    made = make_tiers(core="events")
    keeper = keeper_of(made, tierkeeper_toml(made, POLICY, query_timeout="1 second"))
    keeper.setup(apply=True)
    keeper.move(EVENTS, "core", "main", before=datetime(2024, 1, 11, tzinfo=UTC))
    time.sleep(1.1)  # the rows' rest at Main
    assert keeper.move(EVENTS, "main", "archive", before=datetime(2024, 1, 11, tzinfo=UTC)).rows == 239
    return made


def keeper_of(tiers: Tiers, config: Path) -> Keeper:
    return open_keeper(load(config, {}, tiers.home), environment=tiers.environment)


def test_a_file_is_restored_while_main_is_away(tiers: Tiers) -> None:
    config = tiers.home / "tierkeeper.toml"
    config.write_text(config.read_text().replace(tiers.main.url, "postgresql://u:x@127.0.0.1:1/gone"))
    keeper = keeper_of(tiers, config)
    out = tiers.home / "out.csv"
    assert keeper.archive_restore(EVENTS, to=str(out)).rows == 239
    assert keeper.archive_verify().ok
    with pytest.raises(NotNow, match=r"tiers\.main"):
        keeper.archive_restore(EVENTS, to="back", tier="core")
    with closing(tiers.core.connect("test")) as core:
        assert core.execute("SELECT to_regclass('public.back')").fetchone() == (None,), "nothing runs that cannot be audited (I7)"


def test_a_program_that_asks_again_dials_nothing_and_keeps_nothing_behind_it(
    tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    keeper, dialled = keeper_of(tiers, tiers.home / "tierkeeper.toml"), list[object]()
    connect = Session.connect.__func__  # type: ignore[attr-defined]
    monkeypatch.setattr(Session, "connect", classmethod(lambda *of, **more: (dialled.append(of), connect(*of, **more))[1]))
    counts = []
    for number in range(3):
        assert keeper.archive_restore(EVENTS, to=str(tiers.home / f"{number}.csv")).rows == 239
        counts.append(len(dialled))
    assert counts == [2, 2, 2]
    audited = "SELECT kind, count(*) FROM tierkeeper.audit WHERE verb = 'restore' GROUP BY kind ORDER BY kind"
    named = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'tierkeeper restore'"
    with closing(tiers.main.connect("test")) as main:
        assert main.execute(audited).fetchall() == [("intent", 3), ("outcome", 3)]
        del keeper
        gc.collect()
        assert eventually(lambda: main.execute(named).fetchone() == (0,))


def test_no_new_key_is_made_for_an_archive_that_has_one(tiers: Tiers) -> None:
    keeper = keeper_of(tiers, tiers.home / "tierkeeper.toml")
    folder = tiers.home / ".config" / "tierkeeper"
    kept = {path: path.rename(path.with_suffix(".away")) for path in list(folder.iterdir())}
    for run in (lambda: keeper.setup(apply=True), lambda: keeper.archive_run(EVENTS, datetime(2024, 1, 12, tzinfo=UTC))):
        with pytest.raises(UsageError, match="no new one can replace"):
            run()
    assert {path.suffix for path in folder.iterdir()} == {".away"}
    for path, away in kept.items():
        away.rename(path)
    assert keeper.archive_verify().ok


def test_check_tells_of_a_store_whose_disk_is_not_mounted(tiers: Tiers) -> None:
    keeper = keeper_of(tiers, tiers.home / "tierkeeper.toml")
    assert keeper.check().ok
    tiers.store.rename(tiers.home / "unmounted")
    for there in (False, True):
        if there:
            tiers.store.mkdir(mode=0o700)
        with pytest.raises(Faults) as found:
            keeper.check()
        assert "disk is mounted" in str(found.value)
