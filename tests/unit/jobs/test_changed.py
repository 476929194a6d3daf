"""A process that runs for months says that its configuration is another by now, once, and never ends for it."""

from pathlib import Path

from tierkeeper.config import Settings, load
from tierkeeper.jobs.changed import Changed
from tierkeeper.kernel.clock import SystemClock

CONFIG = """
[tiers.core]
url = "postgresql://u:p@127.0.0.1/core"
quota = "{quota}"
[tiers.main]
url = "postgresql://u:p@127.0.0.1/main"
[tiers.archive]
catalog = "postgresql://u:p@127.0.0.1/catalog"
store = "/tmp"
"""


def test_a_change_is_told_once_and_so_is_a_fault(tmp_path: Path) -> None:
    file = tmp_path / "tierkeeper.toml"

    def written(quota: str) -> None:
        file.write_text(CONFIG.format(quota=quota))
        changed.look()
        changed.look()

    def read() -> Settings:
        return load(file, {}, tmp_path)

    file.write_text(CONFIG.format(quota="500MB"))
    told: list[str] = []
    changed = Changed(read(), read, lambda event: told.append(f"{event.event}: {event.told}"), SystemClock())
    written("500MB")
    assert told == []
    written("400MB")
    assert len(told) == 1
    assert "has changed" in told[0] and "start it again" in told[0]
    written("many")
    assert len(told) == 2
    assert "tiers.core.quota" in told[1]
    written("500MB")
    written("400MB")
    assert len(told) == 3, "it was as it began, and changed anew"
