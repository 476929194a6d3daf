"""Sets up the tiers and says whether the configuration holds; on demand."""

from tierkeeper.functions.base import Function, report
from tierkeeper.kernel.results import CheckResult, SetupResult


class MultiTierSetup(Function):
    """Makes what the tiers lack, and nothing twice: a second run plans nothing."""

    def check(self) -> CheckResult:
        """Looks at the configuration and every connection. Raises Faults with all that is wrong."""
        with self._keeper() as keeper:
            return keeper.check()

    def validate_configuration(self) -> None:
        """Prints a readable report of `check`. Raises SystemExit with the exit code unless all is well."""
        report(self.check)

    def run(self, apply: bool = True) -> SetupResult:
        """Makes what is missing; without `apply` only plans it. Raises TierkeeperError."""
        with self._keeper() as keeper:
            return keeper.setup(apply)
