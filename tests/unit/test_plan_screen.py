"""How a plan's one screen reads."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console

from esimbpf.plan import Assessment, Plan, parse_cycle, parse_end
from esimbpf.sinks.jsonlines import schema
from esimbpf.sinks.plan import plan_fields, plan_screen
from esimbpf.spans import Span

GB = 1_000_000_000
CYCLE = Span(datetime(2026, 11, 14, 23, tzinfo=UTC), datetime(2026, 12, 14, 23, tzinfo=UTC))
NOW = datetime(2026, 11, 24, 17, tzinfo=UTC)


def shown(plan: Plan, told: Assessment, width: int = 100, ascii_only: bool = False) -> list[str]:
    console = Console(width=width, color_system=None)
    with console.capture() as captured:
        console.print(plan_screen(plan, told, ascii_only=ascii_only))
    return [line.rstrip() for line in captured.get().splitlines()]


def plan(cycle: str = "monthly:15", then: str = "cut", **changed: Any) -> Plan:
    settings = {"target": "link:wwan0", "allowance": "10GB", "zone": "Europe/Berlin", "since": NOW, **parse_end(then)}
    return Plan(cycle=parse_cycle(cycle), **(settings | changed))


def test_a_plan_that_will_not_last() -> None:
    told = Assessment(
        NOW,
        CYCLE,
        used_bytes=8_100_000_000,
        allowance_bytes=10 * GB,
        days_left=20.25,
        elapsed=0.325,
        used_today_bytes=384_000_000,
        safe_today_bytes=0,
        typical_day_bytes=493_000_000,
        days_known=14,
        runs_out=datetime(2026, 11, 28, 9, tzinfo=UTC),
        blame=(("podcasts", 3 * GB), ("[b]hostile", GB)),
        gap_s=7200.0,
        warnings=(80,),
    )
    assert shown(plan(then="billed:0.02EUR/MB"), told) == [
        "wwan0  10GB a month, from day 15",
        "used          8.10 GB of 10.0 GB  ████████████████████████████████░░░░░░░░ 81%",
        "remaining     1.90 GB for 20.2 days",
        "warning       80 % of it is reached",
        "will it last  no, it runs out on Sat 2026-11-28 if days stay as the median of the last 14: 493 MB",
        "safe today    0 B more (384 MB used today)",
        "cost so far   0.00 EUR (0.02 EUR for each 1.00 MB beyond the allowance)",
        "pace          2.49 times the plan's: faster than the days pass",
        "cycle         Sun 2026-11-15 to Mon 2026-12-14 (Europe/Berlin)",
        "most used by  podcasts 3.00 GB, [b]hostile 1.00 GB",
        "gaps          2.0 h of the cycle were not counted: what was used then is missing",
    ]


def test_a_plan_that_is_used_up() -> None:
    told = Assessment(
        NOW,
        CYCLE,
        used_bytes=10 * GB + 250_000_000,
        allowance_bytes=10 * GB,
        days_left=20.25,
        cost=Decimal(5),
        warnings=(80, 95),
    )
    lines = shown(plan(then="billed:0.02EUR/MB"), told, ascii_only=True)
    assert lines[1:4] == [
        "used          10.2 GB of 10.0 GB  ######################################## 102%",
        "over          250 MB: costs 5.00 EUR so far",
        "will it last  no, it is used up",
    ]
    assert "over          250 MB: throttled to 64kbit" in shown(plan(then="throttled:64kbit"), told)
    assert "over          250 MB: the carrier cuts it off" in shown(plan(), told)


def test_a_travel_plan_before_and_after_its_days() -> None:
    travel = plan("once:7d", allowance="3GB")
    assert shown(travel, Assessment(NOW, None)) == ["wwan0  3GB once for 7 days: it begins with the first use"]
    over = Assessment(NOW, None, datetime(2026, 11, 20, 23, tzinfo=UTC))
    assert shown(travel, over) == ["wwan0  3GB once for 7 days: over since Sat 2026-11-21"]


@pytest.mark.parametrize(
    ("cycle", "told"),
    [
        ("once:7d", Assessment(NOW, None)),
        ("monthly:15", Assessment(NOW, CYCLE, elapsed=0.325, warnings=(80, 250), blame=(("[b]hostile", GB),))),
        ("monthly:15", Assessment(NOW, CYCLE, used_bytes=11 * GB, allowance_bytes=10 * GB, cost=Decimal("0E-8"))),
    ],
)
def test_programs_get_what_the_schema_promises(cycle: str, told: Assessment) -> None:
    line = json.loads(orjson.dumps(plan_fields(plan(cycle, "billed:0.02EUR/MB"), told, "link:wwan0")))
    valid = Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)
    valid.validate(line)
    for field in line:
        assert not valid.is_valid(line | {field: "wrong" if field == "plan" else {"wrong": 1}}), field
