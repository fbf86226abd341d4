"""Marks the tests that need root and a kernel, so that the others can be chosen: `pytest -m "not live"`."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import settings

LIVE = Path(__file__).parent / "live"


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark, and have no test fail because the machine is busy: scripts/bench measures what takes long."""
    settings.register_profile("untimed", deadline=None)
    settings.load_profile("untimed")
    config.addinivalue_line("markers", "live: real packets in network namespaces; needs root")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in tests/live."""
    for item in items:
        if LIVE in item.path.parents:
            item.add_marker("live")
