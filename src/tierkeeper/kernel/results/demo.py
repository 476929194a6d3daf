"""What the demo answers."""

from datetime import datetime

from pydantic import Field

from tierkeeper.kernel.results.base import Result


class DemoTier(Result):
    """One tier of the demo, before and after. Rows are those of the moved tables; mirrored ones are not counted."""

    rows_before: int
    rows_after: int
    bytes_before: int
    bytes_after: int
    quota_bytes: int


class DemoResult(Result):
    """`demo`: lost and doubled are counted against the package's own files, by code that uses no part of the mover."""

    tiers: dict[str, DemoTier]
    lost: int
    doubled: int
    segments: int
    verified: bool
    restored_rows: int
    restore_matches: bool
    query_matches: bool = Field(description="counts per month over all tiers are those of the original")
    seconds: dict[str, float]
    today: datetime = Field(description="the day that the demo fixes as today")
