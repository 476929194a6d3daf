"""Archives old data to the home server: compressed, encrypted, verified, restorable. Weekly, Sunday 04:00 UTC."""

from tierkeeper.functions import HomeServerArchiver, as_script, handlers

__all__ = ["HomeServerArchiver", "handler"]

handler = handlers.home_server_archiver

if __name__ == "__main__":
    as_script(handler)
