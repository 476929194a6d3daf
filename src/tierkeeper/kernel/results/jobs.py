"""What `run` and `worker` tell, line by line."""

from datetime import datetime
from typing import Any

from pydantic import Field

from tierkeeper.kernel.results.base import ErrorResult, Result


class RunEvent(Result):
    """One line of `run` and `worker`: something that they did, or that became of them."""

    at: datetime
    event: str = Field(
        description="leads (has the lease), stands by (another has it), works (takes jobs), away (Main does not answer), job (one"
        " has run), part (of another process's move; passed over where `told` says why), stalled (a dead worker's job goes to"
        " another), balance (what the balancer tells), changed (the configuration has; it goes on with what it began with), ended"
    )
    told: str = Field(default="", description="the same in words")
    job: str | None = Field(default=None, description="as `[schedule]` names it")
    due_at: datetime | None = None
    attempt: int | None = Field(default=None, description="1 for the first")
    seconds: float | None = None
    ok: bool | None = Field(
        default=None,
        description="whether the job did what it was to do and found nothing wrong; null of what was none, or passed over",
    )
    error: ErrorResult | None = None
    again_at: datetime | None = Field(default=None, description="when it is tried again; null: at its next time")
    result: dict[str, Any] | None = Field(default=None, description="what the job's own command would have printed")
    next: dict[str, datetime] = Field(default={}, description="when each job is due next")
