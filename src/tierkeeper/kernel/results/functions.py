"""What the event handlers of the four functions answer: the document of the command with `--json`, and how it came to be asked.

An HTTP event is answered in the form that HTTP has for it (payload 2.0: statusCode, headers, body), not by one of these.
"""

from typing import Literal

from pydantic import Field

from tierkeeper.kernel.results.archive import ArchiveRunResult, RestoreResult, SegmentResult, VerifyResult
from tierkeeper.kernel.results.base import Result
from tierkeeper.kernel.results.moving import MovePlan, QuotaResult
from tierkeeper.kernel.results.spending import OptimiseResult, WhatIfResult
from tierkeeper.kernel.results.tiers import CheckResult, HealthResult, SetupResult, StatusResult

Trigger = Literal["direct", "schedule", "http"]


class Answer(Result):
    """What every answer of a function has besides."""

    trigger: Trigger = Field(description="what asked: a direct call, or a schedule")
    action: str = Field(description="what was done")


class ArchiveRunAnswer(ArchiveRunResult, Answer):
    """`home_server_archiver`, action run: as `archive run`."""


class ArchivePlanAnswer(Answer):
    """`home_server_archiver`, action run with `dry_run`: as `archive run --dry-run`, whose list is `plans` here."""

    plans: list[MovePlan]


class ArchiveListAnswer(Answer):
    """`home_server_archiver`, action list: as `archive list`, whose list is `segments` here."""

    segments: list[SegmentResult]


class VerifyAnswer(VerifyResult, Answer):
    """`home_server_archiver`, action verify: as `archive verify`."""


class RestoreAnswer(RestoreResult, Answer):
    """`home_server_archiver`, action restore: as `archive restore`."""


class QuotaAnswer(QuotaResult, Answer):
    """`multi_tier_quota_manager`, action run: as `quota`."""


class StatusAnswer(StatusResult, Answer):
    """`multi_tier_quota_manager`, action status: as `status`."""


class OptimiseAnswer(OptimiseResult, Answer):
    """`multi_tier_quota_manager`, action optimise: as `quota --optimise`."""


class WhatIfAnswer(WhatIfResult, Answer):
    """`multi_tier_quota_manager`, action what_if: as `quota --what-if`."""


class SetupAnswer(SetupResult, Answer):
    """`multi_tier_setup`, actions apply and plan: as `setup`."""


class CheckAnswer(CheckResult, Answer):
    """`multi_tier_setup`, action check: as `check`."""


class HealthAnswer(HealthResult, Answer):
    """`intelligent_load_balancer`, action check: as `IntelligentLoadBalancer.test_health_checks`."""
