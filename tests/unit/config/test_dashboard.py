"""Where the page of the tiers may listen, and where a machine's own folder lies."""

from pathlib import Path

import pytest

from tierkeeper.compose import open_keeper
from tierkeeper.config import load
from tierkeeper.kernel.errors import Exit, TierkeeperError

TIERS = """
[tiers.core]
url = "postgresql://u:p@127.0.0.1:1/x"
[tiers.main]
url = "postgresql://u:p@127.0.0.1:1/x"
[tiers.archive]
catalog = "postgresql://u:p@127.0.0.1:1/x"
store = "store"
"""


def fault(folder: Path, text: str) -> TierkeeperError:
    (folder / "tierkeeper.toml").write_text(TIERS + text)
    with pytest.raises(TierkeeperError) as caught:
        load(None, {}, folder)
    assert caught.value.exit_code is Exit.USAGE
    return caught.value


def test_the_page_is_for_this_machine_unless_told(tmp_path: Path) -> None:
    for address in ("0.0.0.0:8900", "10.0.0.5:8900", "[::]:8900", "tiers.lan:8900"):
        assert "other machines would reach it" in str(fault(tmp_path, f'[dashboard]\nlisten = "{address}"\n'))
    for text in (
        'listen = "127.0.0.1:8900"',
        'listen = "[::1]:8900"',
        'listen = "localhost:1"',
        "",
        'listen = "0.0.0.0:1"\ninsecure = true',
    ):
        (tmp_path / "tierkeeper.toml").write_text(f"{TIERS}[dashboard]\n{text}\n")
        load(None, {}, tmp_path)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('[dashboard]\nlisten = "8900"', "dashboard.listen"),
        ('[dashboard]\nlisten = "127.0.0.1:0"', "dashboard.listen"),
        ('[dashboard]\nnames = ["http://x"]', "dashboard.names[0]"),
        ('[dashboard]\nlisten = "127.0.0.1:9"\n[balance]\nmetrics = "127.0.0.1:9"', "dashboard.listen"),
        ("[dashboard]\nport = 8900", "dashboard.port"),
    ],
)
def test_what_is_no_address_is_named(tmp_path: Path, text: str, place: str) -> None:
    assert fault(tmp_path, text).place == f"tierkeeper.toml: {place}"


def test_home_is_the_folder_of_the_key_and_of_what_is_remembered(tmp_path: Path) -> None:
    toml = tmp_path / "etc" / "tierkeeper.toml"
    toml.parent.mkdir()
    toml.write_text(f'home = "own"\n{TIERS}')
    settings = load(toml, {}, tmp_path)
    own = tmp_path / "etc" / "own"
    assert settings.home == str(own)
    keeper = open_keeper(settings, environment={"HOME": str(tmp_path), "XDG_CONFIG_HOME": "x", "XDG_STATE_HOME": "y"})
    assert keeper._config_dir == own / "tierkeeper"
    assert keeper._state_dir is not None
    assert keeper._state_dir.parent == own / "tierkeeper"
    toml.write_text(TIERS)
    users = open_keeper(load(toml, {}, tmp_path), environment={"HOME": str(tmp_path)})
    assert users._config_dir == tmp_path / ".config" / "tierkeeper"


def test_the_archives_key_may_lie_in_the_env_file_as_other_secrets_do(tmp_path: Path) -> None:
    toml = tmp_path / "tierkeeper.toml"
    toml.write_text(TIERS)
    (tmp_path / ".env").write_text("TIERKEEPER_KEY=written\nTIERKEEPER_PASSPHRASE=below\n")
    settings = load(toml, {"TIERKEEPER_PASSPHRASE": "above"}, tmp_path)
    assert "written" not in repr(settings)
    assert settings.environment({"A": "b", "TIERKEEPER_KEY": ""}) == {
        "A": "b",
        "TIERKEEPER_KEY": "written",
        "TIERKEEPER_PASSPHRASE": "above",
    }
    assert settings.environment({"TIERKEEPER_KEY": "another's"})["TIERKEEPER_KEY"] == "another's"
