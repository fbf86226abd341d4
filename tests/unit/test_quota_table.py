"""How quotas are shown: whole tables as text, whatever the width, and objects by the schema."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from jsonschema import Draft202012Validator
from rich.console import Console, RenderableType

from esimbpf.quota import Kept, Standing, parse_quota, period_at
from esimbpf.sinks.jsonlines import schema
from esimbpf.sinks.quota import quota_fields, quota_screen, quota_sentence, quotas_table, used_sentence
from esimbpf.units import Units

NOW = datetime(2026, 11, 18, 12, 7, tzinfo=UTC)
MB = 1_000_000
VALID = Draft202012Validator(schema(), format_checker=Draft202012Validator.FORMAT_CHECKER)


def standing(used: int, paused: bool = False, until: datetime | None = None, **fields: Any) -> Standing:
    place = fields.pop("place", "")
    made = parse_quota({"name": "backup", "limit": "100MB", "per": "day", "do": "block", **fields}, place)
    kept = Kept(made, NOW - timedelta(hours=3), paused=paused, snoozed_until=until)
    period = period_at(kept, NOW, UTC)
    return Standing(kept, NOW, UTC, period, used, "" if period else "no plan is known: esimbpf plan set")


ABROAD: dict[str, Any] = {
    "name": "abroad",
    "all": True,
    "except": ["ssh"],
    "when": "roaming",
    "do": "throttle:128kbit",
    "place": "[[quota]] number 2 of /etc/esimbpf/config.toml",
}
EVERYTHING = (
    standing(12 * MB, app="restic", link="wwan0"),
    standing(101 * MB, **ABROAD),
    standing(81 * MB, name="phone", user="4711", direction="down", per="week", paused=True),
    standing(0, name="updates", cgroup="apt-daily.service", per="once", until=NOW + timedelta(hours=2)),
    standing(0, name="month", exe="/usr/bin/curl", per="cycle", do="notify"),
)


def text(shown: RenderableType, width: int) -> str:
    out = io.StringIO()
    Console(file=out, width=width, color_system=None, highlight=False).print(shown)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def test_a_row_each_where_there_is_room() -> None:
    assert text(quotas_table(EVERYTHING, 120), 120) == WIDE.strip("\n")


def test_a_paragraph_each_where_there_is_none() -> None:
    assert text(quotas_table(EVERYTHING, 80), 80) == NARROW.strip("\n")


WIDE = """
name     whom          limit         used                     left  resets        then              origin  state
────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────
backup   app restic    100 MB a      ░░░░░░  12%  12.0 MB  88.0 MB  19 Nov 00:00  block             state   in force
                       day, on
                       wwan0
abroad   all except    100 MB a      ██████ 101%   101 MB      0 B  19 Nov 00:00  throttle:128kbit  config  exceeded
         ssh           day, while
                       roaming
phone    user 4711     100 MB a      ████░░  81%  81.0 MB  19.0 MB  23 Nov 00:00  block             state   paused
                       week, down
                       only
updates  unit          100 MB in     ░░░░░░   0%      0 B   100 MB  never         block             state   snoozed
         apt-daily.se  all
         rvice
month    executable    100 MB a                                                   notify            state   not in force
         /usr/bin/cur  cycle
         l
updates: snoozed until 18 Nov 14:07
month: not in force: no plan is known: esimbpf plan set
"""
NARROW = """
backup (app restic): at most 100 MB a day, down and up, on wwan0; then blocked
  █░░░░░░░░░  12%  12.0 MB used, 88.0 MB left, resets 19 Nov 00:00
  in force; added with the command line

abroad (all except ssh): at most 100 MB a day, down and up, while roaming; then
throttled to 128kbit
  ██████████ 101%  101 MB used, 0 B left, resets 19 Nov 00:00
  exceeded; [[quota]] number 2 of /etc/esimbpf/config.toml

phone (user 4711): at most 100 MB a week, down only; then blocked
  ████████░░  81%  81.0 MB used, 19.0 MB left, resets 23 Nov 00:00
  paused; added with the command line

updates (unit apt-daily.service): at most 100 MB in all, down and up; then
blocked
  ░░░░░░░░░░   0%  0 B used, 100 MB left, never resets
  snoozed until 18 Nov 14:07; added with the command line

month (executable /usr/bin/curl): at most 100 MB a cycle, down and up; then told
  not in force: no plan is known: esimbpf plan set; added with the command line
"""


def test_without_unicode_nothing_else_is_drawn() -> None:
    for width in (40, 80, 120):
        assert text(quotas_table(EVERYTHING, width, ascii_only=True), width).isascii()
    assert text(quota_screen(EVERYTHING[0], ascii_only=True), 80).isascii()
    assert "####..  81%" in text(quotas_table(EVERYTHING, 120, ascii_only=True), 120)


def test_all_about_one() -> None:
    assert text(quota_screen(EVERYTHING[1]), 80) == SCREEN.strip("\n")
    assert "not in force: no plan is known: esimbpf plan set" in text(quota_screen(EVERYTHING[4]), 80)


SCREEN = """
abroad
for        all except ssh
limit      100 MB a day, down and up, while roaming
used       101 MB  ████████████████████████████████████████ 101%
remaining  0 B
period     since Wed 2026-11-18 00:00 UTC
resets     Thu 2026-11-19 00:00 UTC
warns at   80 % (reached), 95 % (reached)
then       throttled to 128kbit, after bursts of 16.0 kB
state      exceeded
added      Wed 2026-11-18 09:07 UTC
origin     [[quota]] number 2 of /etc/esimbpf/config.toml
"""


@pytest.mark.parametrize("width", [20, 40, 80, 109, 110, 120, 200])
def test_names_do_nothing_and_no_figure_is_cut_off(width: int) -> None:
    name = "[bold]" + "x" * 40 + "日本[/]"
    app = "[link=http://x]" + "y" * 60
    hostile = standing(99_999_999, name=name, app=app)
    for shown in (quotas_table([hostile], width), quota_screen(hostile)):
        said = text(shown, width)
        together = "".join(said.split())
        assert all(len(line) <= width for line in said.splitlines())
        if width < 110:
            assert name in together
            assert app in together
        assert "99%" in said
        assert "100%" not in said


def test_what_is_understood_is_said_in_a_sentence() -> None:
    assert [quota_sentence(one.kept.quota) for one in EVERYTHING] == [
        "backup (app restic): at most 100 MB a day, down and up, on wwan0; then blocked",
        "abroad (all except ssh): at most 100 MB a day, down and up, while roaming; then throttled to 128kbit",
        "phone (user 4711): at most 100 MB a week, down only; then blocked",
        "updates (unit apt-daily.service): at most 100 MB in all, down and up; then blocked",
        "month (executable /usr/bin/curl): at most 100 MB a cycle, down and up; then told",
    ]
    bare = standing(2**20, cgroup="/a", limit="1200", profile="8949020000001234567", per="hour", when="home")
    assert quota_sentence(bare.kept.quota) == (
        "backup (cgroup /a): at most 1200 B an hour, down and up, with profile 8949020000001234567, while not roaming; "
        "then blocked"
    )
    assert used_sentence(bare, Units.IEC) == "Used this hour: 1.00 MiB."


@pytest.mark.parametrize("one", EVERYTHING, ids=lambda one: one.kept.quota.name)
def test_programs_get_what_the_schema_promises(one: Standing) -> None:
    told = json.loads(orjson.dumps(quota_fields(one)))
    assert list(VALID.iter_errors(told)) == []
    promised = schema()["$defs"]["quota"]["required"]
    assert set(told) == {"type", "v", "time", *promised}


def test_programs_are_told_all() -> None:
    told = quota_fields(EVERYTHING[1])
    assert told == {
        "type": "quota",
        "v": 1,
        "time": "2026-11-18T12:07:00.000Z",
        "name": "abroad",
        "whom": {"kind": "all", "except": ("ssh",)},
        "limit_bytes": 100 * MB,
        "direction": "both",
        "per": "day",
        "link": None,
        "profile": None,
        "when": "roaming",
        "warn": (80, 95),
        "do": "throttle",
        "rate_bytes_per_s": 16_000,
        "burst_bytes": 16_000,
        "origin": "config",
        "place": "[[quota]] number 2 of /etc/esimbpf/config.toml",
        "added": "2026-11-18T09:07:00.000Z",
        "state": "exceeded",
        "reason": None,
        "paused": False,
        "snoozed_until": None,
        "period_begin": "2026-11-18T00:00:00.000Z",
        "resets": "2026-11-19T00:00:00.000Z",
        "used_bytes": 101 * MB,
        "remaining_bytes": 0,
        "used_percent": 101.0,
        "levels": [80, 95],
        "exceeded": True,
    }
