"""What `report` tells is what has crossed, in every form; and what was not counted is told as that."""

from __future__ import annotations

import csv
import io
import json
import time
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from esimbpf.model import NOTHING, Counters
from esimbpf.sinks.jsonlines import schema
from tests.live.attached import command, daemon, end
from tests.live.netlab import Lab
from tests.live.traffic import udp
from tests.live.watching import COUNTERS

pytestmark = pytest.mark.usefixtures("own_pins")


def lines(lab: Lab, state_dir: Path, *words: str) -> list[dict[str, Any]]:
    """What `report --json` tells, each line as the schema has it."""
    validator = Draft202012Validator(schema())
    told = command(lab, "--state-dir", str(state_dir), "report", "--json", *words).stdout.splitlines()
    read = [json.loads(line) for line in told]
    for line in read:
        validator.validate(line)
    return read


def total(rows: list[dict[str, Any]]) -> Counters:
    return sum((Counters(*(int(row[name]) for name in COUNTERS)) for row in rows), NOTHING)


def test_every_form_has_what_has_crossed_folded_or_not(lab: Lab, tmp_path: Path) -> None:
    before = lab.link.crossed()
    with daemon(lab, tmp_path) as process:
        moved = udp(lab, down=301, up=207)
        assert moved.exactly
        end(process)
    assert udp(lab, down=17, up=19).exactly
    truth = lab.link.crossed() - before
    for words in (
        [],
        *(["--by", by] for by in ("user", "link", "profile")),
        *(["--per", per] for per in ("hour", "week")),
    ):
        assert total(lines(lab, tmp_path, *words)) == truth
    apps = {line["app"]: line for line in lines(lab, tmp_path) if line["kind"] == "app"}
    assert total([apps["puppet.py"]]) == truth
    assert {line["user"] for line in lines(lab, tmp_path, "--by", "user")} == {"root"}
    shown = ("--state-dir", str(tmp_path), "report")
    assert total(list(csv.DictReader(io.StringIO(command(lab, *shown, "--csv").stdout)))) == truth
    picture = tmp_path / "report.svg"
    assert "puppet.py" in command(lab, *shown, "--svg", str(picture)).stdout
    assert "puppet.py" in picture.read_text()


def test_from_detaching_on_nothing_is_counted_and_that_is_a_gap(lab: Lab, tmp_path: Path) -> None:
    with daemon(lab, tmp_path) as process:
        assert udp(lab, up=5).exactly
        end(process)
    assert {line["gap_s"] for line in lines(lab, tmp_path)} == {0}
    detached = time.time()
    command(lab, "--state-dir", str(tmp_path), "detach")
    time.sleep(2.5)
    told = {line["gap_s"] for line in lines(lab, tmp_path)}
    waited = time.time() - detached
    assert len(told) == 1
    assert 2.0 < told.pop() <= waited
    assert "were not counted" in command(lab, "--state-dir", str(tmp_path), "report").stdout
    with daemon(lab, tmp_path) as process:
        end(process)
    assert max(line["gap_s"] for line in lines(lab, tmp_path)) > 2.0
