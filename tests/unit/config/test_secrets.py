"""What is printed holds no secret."""

from tierkeeper.config import redact


def test_passwords_of_urls_and_parameters_are_hidden() -> None:
    text = "tried postgresql://bob:hunter22@db:5432/x?sslmode=require&password=hunter22 and https://tok3n@host/p"
    assert redact(text) == "tried postgresql://…@db:5432/x?sslmode=require&password=… and https://…@host/p"


def test_values_of_secret_variables_are_hidden_wherever_they_stand() -> None:
    variables = {"HOME_SERVER_TOKEN": "abcdefgh", "CORE_SUPABASE_URL": "postgresql://bob:hunter22@db/x", "PATH": "/usr/bin"}
    assert redact("abcdefgh hunter22 /usr/bin", variables) == "<HOME_SERVER_TOKEN> … /usr/bin"


def test_a_password_is_hidden_as_the_url_has_it_and_as_the_server_is_given_it() -> None:
    variables = {"CORE_SUPABASE_URL": "postgresql://bob:hun%40ter%2F22@db/x"}
    assert redact("hun@ter/22, written hun%40ter%2F22", variables) == "…, written …"
