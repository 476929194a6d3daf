"""What a person wants to see of the home server and its tokens."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tierkeeper.cli.render import cell, good, grid, instant, notes, pairs, render, size
from tierkeeper.kernel import results as r


@render.register(r.ServingResult)
def _serving(result: r.ServingResult) -> Iterator[RenderableType]:
    yield good(f"serving {result.store} on {result.listen}")
    yield from notes(result.notes)
    yield Text("For the clients, with a token of `tierkeeper token create`:")
    yield _copied(f"HOME_SERVER_URL={result.enrolment}")


@render.register(r.NewTokenResult)
def _new_token(result: r.NewTokenResult) -> Iterator[RenderableType]:
    yield _about(result)
    if result.enrolment is None:
        yield from notes(["the server was never started here; when it is, it shows the HOME_SERVER_URL that goes with this"])
    else:
        yield _copied(f"HOME_SERVER_URL={result.enrolment}")
    yield _copied(f"HOME_SERVER_TOKEN={result.token}")
    yield Text("The token is shown once and kept nowhere.", "dim")


@render.register(r.TokenResult)
def _token(result: r.TokenResult) -> Iterator[RenderableType]:
    yield _about(result)


def tokens(results: list[r.TokenResult]) -> Table:
    """All tokens, a line each."""
    table = grid("Id", "Name", "Role", "State", "Expires", "Used", "Quota", right=("Used", "Quota"))
    for t in results:
        state = cell(t.state, "green" if t.state == "live" else "dim")
        table.add_row(
            cell(t.id), cell(t.name, "bold"), cell(t.role), state, instant(t.expires_at), size(t.used_bytes), size(t.quota_bytes)
        )
    return table


def _about(token: r.TokenResult) -> Table:
    return pairs(
        ("Token", cell(f"{token.name} ({token.id})")),
        ("Role", cell(token.role)),
        ("State", cell(f"{token.state}, until {token.expires_at:%Y-%m-%d}" if token.state == "live" else token.state)),
    )


def _copied(text: str) -> Text:
    """A line that is copied whole."""
    return Text(text, "bold", no_wrap=True, overflow="ignore")
