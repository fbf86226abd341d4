"""The unit that systemd is given: it is understood without a word, and shuts the daemon in."""

from __future__ import annotations

import importlib.resources
import subprocess
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]

# What `systemd-analyze security` makes of it, in tenths: 0 is shut in wholly, 96 not at all.
MOST_EXPOSED = 22


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit as scripts/setup installs it."""
    shipped = importlib.resources.files("esimbpf").joinpath("service", "esimbpf.service").read_text()
    filled = tmp_path / "esimbpf.service"
    filled.write_text(shipped.replace("@folder@", str(TOP)))
    return filled


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *words], capture_output=True, text=True, check=False)


def test_systemd_has_nothing_to_say_about_it(unit: Path) -> None:
    done = analyze("verify", str(unit))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_daemon_is_shut_in_as_tightly_as_it_was(unit: Path) -> None:
    done = analyze("security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSED}", str(unit))
    assert done.returncode == 0, done.stdout + done.stderr
    looser = unit.with_name("looser.service")
    looser.write_text(unit.read_text().replace("CAP_PERFMON", "CAP_PERFMON CAP_SYS_ADMIN"))
    done = analyze("security", "--offline=yes", "--no-pager", f"--threshold={MOST_EXPOSED}", str(looser))
    assert done.returncode == 1, "what is too loose is seen"
