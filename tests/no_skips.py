"""A pytest plugin: a test that did not run counts as failed, as does one that is expected to fail.

What is skipped where nobody looks is not tested. A machine that cannot run a test has to say so loudly.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

import pytest

Report = TypeVar("Report", pytest.TestReport, pytest.CollectReport)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skipped test into a failed one."""
    report = yield
    return _refused(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn a skipped module into an error."""
    report = yield
    return _refused(report)


def _refused(report: Report) -> Report:
    if report.outcome == "skipped":
        reason = report.longrepr[-1] if isinstance(report.longrepr, tuple) else getattr(report, "wasxfail", "xfail")
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} did not run or was allowed to fail, and no test may: {reason}"
        vars(report).pop("wasxfail", None)
    return report
