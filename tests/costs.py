"""What tests cost in seconds of a CPU, and which of them `make quick` runs; a busy machine changes neither."""

import os
from collections.abc import Callable

import pytest

QUICK = {
    f"test_{name}"
    for name in (
        *("agreement", "apidocs", "audit", "bm25", "collator", "collection", "config", "costs", "evaluation"),
        *("fuse_recipe", "fusion", "holdout", "layers", "licences", "lint", "losses", "lowest", "lucene", "measures"),
        *("names", "over_seeds", "planning", "pseudo_queries", "ranges", "report", "repository", "run", "types"),
    )
}
"""The test files of `make quick`: no model is trained there."""

QUICK_SECONDS = 60
"""What they may cost together, wherever they run."""


def spent() -> float:
    """CPU seconds of this process and of those that it waited for."""
    return sum(os.times()[:4])


class Costs:
    """Counts what the quick files cost, and fails a run in which they cost too much."""

    def __init__(self, config, clock: Callable[[], float] = spent):
        self.config, self.clock = config, clock
        self.before = clock()
        self.seconds: dict[str, float] = {}

    def pytest_collection_finish(self):
        self.before = self.clock()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self):
        """A report has the seconds since the one before; it is sent from a worker to the main process."""
        report = yield
        now = self.clock()
        report.cpu_seconds, self.before = now - self.before, now
        return report

    def pytest_runtest_logreport(self, report):
        file = report.nodeid.partition("::")[0].rpartition("/")[2].removesuffix(".py")
        # a worker that crashed reports none
        self.seconds[file] = self.seconds.get(file, 0) + getattr(report, "cpu_seconds", 0.0)

    def quick(self) -> dict[str, float]:
        """Seconds per quick file, the dearest first."""
        found = {file: seconds for file, seconds in self.seconds.items() if file in QUICK}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def excess(self) -> str:
        """What is wrong with the costs; nothing where they are within the limit."""
        found = self.quick()
        if sum(found.values()) <= QUICK_SECONDS:
            return ""
        dearest = ", ".join(f"{file} {seconds:.1f}" for file, seconds in list(found.items())[:5])
        return f"quick tests cost more than {QUICK_SECONDS} CPU seconds; take files out of QUICK: {dearest}"

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session):
        if not hasattr(self.config, "workerinput") and self.excess() and session.exitstatus == 0:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter):
        if found := self.quick():
            terminalreporter.write_line(f"quick tests cost {sum(found.values()):.1f} of {QUICK_SECONDS} CPU seconds")
        if excess := self.excess():
            terminalreporter.write_line(f"FAILED {excess}", red=True)
