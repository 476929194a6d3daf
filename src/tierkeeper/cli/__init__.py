"""The command line: reads arguments, asks one `Keeper`, prints what it answers. It decides nothing about rows.

One JSON document on stdout with `--json`, tables for a person else; logs, progress and errors of a person go to stderr.
"""

from tierkeeper.cli.app import main

__all__ = ["main"]
