"""That a test which did not run counts as failed."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

TOP = Path(__file__).parents[2]

TESTS = """
import pytest

def test_that_runs(): pass

def test_that_skips_itself(): pytest.skip("no time")

@pytest.mark.skipif(True, reason="no time")
def test_that_a_mark_skips(): pass

@pytest.fixture
def lazy(): pytest.skip("no time")

def test_that_a_fixture_skips(lazy): pass

@pytest.mark.xfail(reason="no time")
def test_that_may_fail(): raise AssertionError
"""
MODULE = """
import pytest

pytest.importorskip("no_such_module", reason="no time")

def test_that_a_whole_module_skips(): pass
"""


def test_what_did_not_run_or_may_fail_counts_as_failed(tmp_path: Path) -> None:
    Path(tmp_path, "pytest.ini").write_text("[pytest]\n")
    Path(tmp_path, "test_some.py").write_text(TESTS)
    Path(tmp_path, "test_module.py").write_text(MODULE)
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-p", "tests.no_skips", "-p", "no:cacheprovider"),
            *("-rA", "--continue-on-collection-errors", f"--config-file={tmp_path}/pytest.ini", str(tmp_path)),
        ],
        cwd=TOP,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert sorted(
        re.findall(r"^(PASSED|FAILED|ERROR|SKIPPED|XFAIL) \S*?(\w+)(?:\.py)?(?: |$)", done.stdout, re.MULTILINE)
    ) == [
        ("ERROR", "test_module"),
        ("ERROR", "test_that_a_fixture_skips"),
        ("ERROR", "test_that_a_mark_skips"),
        ("FAILED", "test_that_may_fail"),
        ("FAILED", "test_that_skips_itself"),
        ("PASSED", "test_that_runs"),
    ]
    assert "no test may: Skipped: no time" in done.stdout
