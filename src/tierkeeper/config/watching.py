"""`[schedule]` and `[alerts]`: what runs by itself, and who is told. Pure."""

from datetime import timedelta
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, SecretStr, field_validator

from tierkeeper.config.base import Finding, Section, refuse
from tierkeeper.config.fields import QuietHours, Span, ZoneName
from tierkeeper.kernel import cron
from tierkeeper.kernel.limits import ALERT_REMIND_SECONDS_MIN
from tierkeeper.kernel.units import Age
from tierkeeper.monitoring.alerts.machine import Rules
from tierkeeper.monitoring.alerts.quiet import read_zone
from tierkeeper.monitoring.alerts.sending import Target


def _cron(text: str) -> str:
    """An expression, or "off". Says what is wrong with one that is none."""
    found = None if text == OFF else cron.fault(text)
    if found is not None:
        remedy = 'Write minute, hour, day, month and day of the week in UTC, such as "0 4 * * sun", or "off"'
        raise refuse(Finding("", f"this is no cron expression: {found}", remedy))
    return text


OFF: Final = "off"
Cron = Annotated[str, AfterValidator(_cron)]


class Schedule(Section):
    """`[schedule]`: when `tierkeeper run` does what, as cron expressions in UTC; "off" leaves a job out."""

    usage: Cron = Field(default="*/5 * * * *", description="samples what each tier and table takes")
    alerts: Cron = Field(default="*/5 * * * *", description="looks whether anybody is to be told of something")
    keep_awake: Cron = Field(
        default="17 * * * *", description="reads a row from tiers that pause when nobody does, where the last read is a day old"
    )
    quota: Cron = Field(default="0 3 * * *", description="runs the quota manager")
    pressure: Cron = Field(
        default="*/15 * * * *", description="runs it before its time, where a tier is too full or will be before the next run"
    )
    archive: Cron = Field(default="0 4 * * sun", description="archives, and removes what the policy lets go")
    scrub: Cron = Field(default="0 5 * * *", description="reads a thirtieth of the archive back, what was read longest ago first")
    checkpoint: Cron = Field(default="30 5 * * *", description="looks whether the archive was put back to an earlier time")
    drill: Cron = Field(
        default="0 6 1 * *",
        description="restores a twelfth of the archive into a scratch database; it needs the recovery key on that machine",
    )

    def crons(self) -> dict[str, str]:
        """The expression of each job that is not off."""
        return {job: text for job, text in self if text != OFF}


class Alerts(Section):
    """`[alerts]`: who is told."""

    notify: tuple[SecretStr, ...] = Field(default=(), description="Apprise URLs, best as `env:NAME`")
    quiet: QuietHours | None = Field(
        default=None, description='hours in which only what is urgent rings, such as "22:00-07:00"; the rest waits for their end'
    )
    timezone: ZoneName = Field(default="UTC", description='of the quiet hours, such as "Europe/Berlin"')
    quiet_urgent: Literal["send", "hold"] = Field(
        default="send",
        description="what becomes in quiet hours of what is urgent: a quota breached, a tier read-only, a failed move",
    )
    remind: Span = Field(
        default=Age.parse("1 day", "alerts.remind"), description="what still rings is told again after this time"
    )

    @field_validator("remind")
    @classmethod
    def _is_a_time(cls, remind: Age) -> Age:
        if remind.seconds < ALERT_REMIND_SECONDS_MIN:
            raise refuse(Finding("", "it would ring without end", 'Write a time of at least an hour, such as "1 day"'))
        return remind

    def rules(self) -> Rules:
        """When who is told."""
        return Rules(
            timedelta(seconds=self.remind.seconds), self.quiet, read_zone(self.timezone, "alerts.timezone"), self.quiet_urgent
        )

    def targets(self) -> tuple[Target, ...]:
        """Who is told, in the order of the file."""
        return tuple(Target(number, url.get_secret_value()) for number, url in enumerate(self.notify))
