"""docs/reference says what the program does."""

from pathlib import Path

from tierkeeper.cli import reference


def test_a_stale_page_is_found_and_a_written_one_is_not(tmp_path: Path) -> None:
    assert reference.main(["--check", str(tmp_path)]) == 1
    assert reference.main([str(tmp_path)]) == 0
    assert reference.main(["--check", str(tmp_path)]) == 0
    (tmp_path / "commands.md").write_text("old")
    assert reference.main(["--check", str(tmp_path)]) == 1
    assert reference.main([]) == 2


def test_every_command_and_key_is_there() -> None:
    pages = reference.pages()
    commands = (
        "demo",
        "init",
        "check",
        "setup",
        "status",
        "quota",
        "move",
        "query",
        *(f"archive {c}" for c in ("run", "list", "show", "verify")),
    )
    assert [c for c in commands if f"## `tierkeeper {c}`" not in pages["commands.md"]] == []
    keys = ("core.quota", "[[tables]]", "start_at", "health_check_interval", "HOME_SERVER_TOKEN", "[[balance.services]]")
    assert [k for k in keys if k.replace("core.quota", "`quota`") not in pages["configuration.md"]] == []
    assert "MoveResult" in pages["results.md"]
    assert "| 75 |" in pages["errors.md"]
