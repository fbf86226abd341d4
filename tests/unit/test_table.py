"""The table of `top`, whole, as text of a fixed width."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from rich.cells import cell_len
from rich.console import Console

from esimbpf.model import NOTHING, Counters, GroupBy, Kind, Link, LinkTick, Process, Row, Tick
from esimbpf.sinks.table import Sort, View, render
from esimbpf.units import Units, bytes_text, rate_text

WWAN0 = Link("wwan0", 2, "wwan", ("100.64.3.7", "2001:db8::7"))
NO_ROWS = tuple(Row(k, k.value, k.value, NOTHING, NOTHING) for k in (Kind.KERNEL, Kind.FORWARDED, Kind.UNATTRIBUTED))


def app(name: str, delta: Counters, total: Counters, pids: Sequence[int] = (100,)) -> Row:
    processes = tuple(Process(pid, pid, 0, name, f"/usr/bin/{name}", (), "/") for pid in pids)
    return Row(Kind.APP, name, name, delta, total, processes=processes)


ROWS = (
    app("video", Counters(2_400_000, 31_000, 1700, 600), Counters(740_000_000, 9_400_000, 1, 1), (7, 8, 9)),
    app("backup", Counters(9_000, 512_345, 90, 400), Counters(1_200_000, 98_765_432, 1, 1)),
    app("idle", NOTHING, Counters(1234, 999, 1, 1)),
)


def tick(rows: Sequence[Row] = ROWS + NO_ROWS, warnings: tuple[str, ...] = (), present: bool = True) -> Tick:
    delta = sum((row.delta for row in rows), start=NOTHING)
    total = sum((row.total for row in rows), start=NOTHING)
    link = LinkTick(WWAN0, present, tuple(rows), delta, total)
    return Tick(datetime(2026, 11, 23, tzinfo=UTC), 1.0, (link,), warnings)


def shown(what: Tick, view: View, width: int, height: int | None = None) -> list[str]:
    console = Console(width=width, color_system=None, soft_wrap=True)
    with console.capture() as captured:
        console.print(render(what, view, width, height))
    lines = captured.get().splitlines()
    assert all(len(line) <= width for line in lines), [line for line in lines if len(line) > width]
    return [line.rstrip() for line in lines]


def test_at_80_columns() -> None:
    history = {("wwan0", row.kind, row.id): [0.0, 600_000.0, 2_431_000.0] for row in ROWS[:1]}
    assert shown(tick(), View(GroupBy.APP, history=history), 80, 11) == [
        "wwan0 wwan  100.64.3.7 2001:db8::7",
        "↓ 2.41 MB/s  ↑ 543 kB/s   total ↓ 741 MB  ↑ 108 MB",
        "app             procs       ↓/s▾        ↑/s  ↓ total  ↑ total share     history",
        "video               3  2.40 MB/s  31.0 kB/s   740 MB  9.40 MB ███▌  88%       ▂█",
        "backup              1  9.00 kB/s   512 kB/s  1.20 MB  98.8 MB ▌     12%",
        "idle                1          0          0  1.23 kB    999 B        0%",
        "─" * 80,
        "kernel                         0          0        0        0        0%",
        "forwarded                      0          0        0        0        0%",
        "unattributed                   0          0        0        0        0%",
        "q quit  s sort: down  b by: app  p pause  / filter  ? help",
    ]


def with_blocked(what: Tick) -> Tick:
    """Quotas have blocked some of `backup`, and all of `updates`."""
    some, everything = Counters(1500, 698_500, 1, 500), Counters(0, 1229, 0, 1)
    stopped = replace(app("updates", NOTHING, NOTHING), blocked=everything, total_blocked=everything)
    [link] = what.links
    rows = (*(replace(row, total_blocked=some) if row.name == "backup" else row for row in link.rows), stopped)
    return replace(what, links=(replace(link, rows=rows, blocked=everything, total_blocked=some + everything),))


def test_what_was_blocked_has_a_column_at_80_columns() -> None:
    assert shown(with_blocked(tick()), View(GroupBy.APP, keys=False), 80) == [
        "wwan0 wwan  100.64.3.7 2001:db8::7",
        "↓ 2.41 MB/s  ↑ 543 kB/s   total ↓ 741 MB  ↑ 108 MB",
        "app                         ↓/s▾        ↑/s  ↓ total  ↑ total  blocked share",
        "video                  2.40 MB/s  31.0 kB/s   740 MB  9.40 MB        0 ███▌  88%",
        "backup                 9.00 kB/s   512 kB/s  1.20 MB  98.8 MB   700 kB ▌     12%",
        "idle                           0          0  1.23 kB    999 B        0        0%",
        "updates                        0          0        0        0  1.23 kB        0%",
        "────────────────────────────────────────────────────────────────────────────────",
        "kernel                         0          0        0        0        0        0%",
        "forwarded                      0          0        0        0        0        0%",
        "unattributed                   0          0        0        0        0        0%",
    ]


def test_sorted_by_what_was_blocked() -> None:
    def sorted_rows(reverse: bool) -> list[str]:
        lines = shown(with_blocked(tick()), View(GroupBy.APP, sort=Sort.BLOCKED, reverse=reverse), 80)
        assert (" blocked▴ " if reverse else " blocked▾ ") in lines[2]
        return [line.split()[0] for line in lines[3:7]]

    assert sorted_rows(reverse=False) == ["backup", "updates", "video", "idle"]
    assert sorted_rows(reverse=True) == ["video", "idle", "updates", "backup"]


def test_what_was_blocked_has_its_column_as_long_as_there_is_room() -> None:
    assert "blocked" in shown(with_blocked(tick()), View(GroupBy.APP), 44)[3]
    assert "blocked" not in shown(with_blocked(tick()), View(GroupBy.APP), 43)[3]
    assert not any("blocked" in line for line in shown(tick(), View(GroupBy.APP), 200))


@pytest.mark.parametrize("width", [1, 8, 20, 33, 44, 53, 79, 80, 96, 105, 200])
def test_with_what_was_blocked_any_width_is_not_overrun(width: int) -> None:
    shown(with_blocked(tick()), View(GroupBy.APP), width, 24)


def test_the_help_says_what_blocked_is_where_something_was() -> None:
    lines = shown(with_blocked(tick()), View(GroupBy.APP, help=True), 80)
    assert lines[-5:] == [
        "from quotas",
        "  blocked       by quotas, in this run: sent and never crossed the link; or",
        "                received, paid for, and dropped",
        "",
        "A byte is one that the carrier bills: IP header included, link layer not.",
    ]
    assert not any("blocked" in line for line in shown(tick(), View(GroupBy.APP, help=True), 80))


def test_a_link_in_short_says_what_was_blocked() -> None:
    both = replace(four_links(5, 6, 7, 8), links=(*with_blocked(tick()).links, *four_links(5, 6, 7, 8).links[1:]))
    assert shown(both, View(GroupBy.APP, link=3), 100, 12)[0] == (
        "wwan0 wwan  ↓ 2.41 MB/s  ↑ 543 kB/s   total ↓ 741 MB  ↑ 108 MB   blocked 701 kB"
    )


def test_at_40_columns_names_and_rates_stay() -> None:
    assert shown(tick(), View(GroupBy.APP), 40, 12) == [
        "wwan0 wwan  100.64.3.7 2001:db8::7",
        "↓ 2.41 MB/s  ↑ 543 kB/s",
        "total ↓ 741 MB  ↑ 108 MB",
        "app                      ↓/s▾        ↑/s",
        "video               2.40 MB/s  31.0 kB/s",
        "backup              9.00 kB/s   512 kB/s",
        "idle                        0          0",
        "─" * 40,
        "kernel                      0          0",
        "forwarded                   0          0",
        "unattributed                0          0",
        "q quit  s sort  b by  p pause  ? help",
    ]


def test_at_20_columns_each_direction_has_a_line() -> None:
    lines = shown(tick(), View(GroupBy.APP), 20, 12)
    assert lines[1:3] == ["↓ 2.41 MB/s  741 MB", "↑ 543 kB/s  108 MB"]
    assert lines[-1] == "q quit  ? help"


@pytest.mark.parametrize("height", [3, 4, 5, 6, 7, 8])
def test_however_low_the_terminal_is_what_is_no_process_stays(height: int) -> None:
    lines = shown(tick(), View(GroupBy.APP), 80, height)
    assert len(lines) == height
    assert sum(line.startswith(("kernel", "forwarded", "unattributed")) for line in lines) == 3
    assert not any("nothing has moved" in line for line in lines)


def four_links(*moved: int) -> Tick:
    """Four links, on each of which an app has moved so many bytes."""
    links = []
    for number, amount in enumerate(moved):
        rows = (app(f"app{number}", Counters(amount), Counters(amount)), *NO_ROWS) if amount else NO_ROWS
        link = replace(WWAN0, name=f"wwan{number}", ifindex=number + 2)
        links.append(LinkTick(link, True, rows, Counters(amount), Counters(amount)))
    return Tick(datetime(2026, 11, 23, tzinfo=UTC), 1.0, tuple(links), ())


def test_where_not_all_links_have_room_the_busy_ones_are_in_full_and_none_is_missing() -> None:
    lines = shown(four_links(0, 0, 777, 55), View(GroupBy.APP), 80, 24)
    assert [line.split()[0] for line in lines if line.startswith("wwan")] == ["wwan0", "wwan1", "wwan2", "wwan3"]
    assert sum(line.startswith("kernel") for line in lines) == 2
    assert any(line.startswith("app2") for line in lines)
    assert any(line.startswith("app3") for line in lines)
    assert not any("nothing has moved" in line for line in lines)
    assert lines[0] == "wwan0 wwan  ↓ 0  ↑ 0   total ↓ 0 B  ↑ 0 B"


def test_any_link_can_be_chosen_to_be_in_full() -> None:
    lines = shown(four_links(9, 8, 7, 6), View(GroupBy.APP, link=3), 80, 12)
    assert [line for line in lines if line.startswith("app")][1:] == [line for line in lines if line.startswith("app3")]
    assert lines[0] == "wwan0 wwan  ↓ 9 B/s  ↑ 0   total ↓ 9 B  ↑ 0 B"


@pytest.mark.parametrize("height", [1, 4, 9, 13, 17, 30, 60])
def test_several_links_fill_the_terminal_and_do_not_overrun_it(height: int) -> None:
    assert len(shown(four_links(9, 0, 7, 6), View(GroupBy.APP), 80, height)) <= max(height, 1)


def test_a_process_that_is_not_called_as_its_app_has_the_apps_name_too() -> None:
    row = Row(Kind.PROCESS, "1.2", "python3", NOTHING, Counters(5), app="sync.py", processes=ROWS[1].processes)
    assert shown(tick((row, *NO_ROWS)), View(GroupBy.PROCESS), 80)[3].startswith("python3 sync.py ")


def test_rows_that_do_not_fit_are_told_as_more() -> None:
    assert any("3 more" in line for line in shown(tick(), View(GroupBy.APP), 80, 7))


def test_at_200_columns_user_and_program_are_there() -> None:
    lines = shown(tick(), View(GroupBy.APP), 200, 20)
    assert lines[2].endswith("program")
    assert lines[3].endswith("/usr/bin/video")
    assert "root" in lines[3]


@pytest.mark.parametrize("width", [1, 8, 20, 21, 33, 79, 121, 151, 500])
@pytest.mark.parametrize("height", [1, 3, 6, 24])
def test_any_size_is_filled_and_not_overrun(width: int, height: int) -> None:
    assert len(shown(tick(warnings=("something is lost",)), View(GroupBy.APP), width, height)) <= max(height, 4)


def test_what_is_no_process_stays_when_there_are_more_rows_than_lines() -> None:
    many = tuple(app(f"app{number:03}", Counters(number, 0, 1, 0), Counters(number, 0, 1, 0)) for number in range(300))
    view = View(GroupBy.APP)
    lines = shown(tick(many + NO_ROWS), view, 80, 24)
    assert [line.split()[0] for line in lines[-4:-1]] == ["kernel", "forwarded", "unattributed"]
    assert lines[3].startswith("app299")
    assert "284 more" in "".join(lines)
    view.scroll = 10_000
    lines = shown(tick(many + NO_ROWS), view, 80, 24)
    assert any(line.startswith("app000") for line in lines)
    assert "284 above" in "".join(lines)


def test_what_is_no_process_stays_under_a_filter() -> None:
    lines = shown(tick(), View(GroupBy.APP, filter="VID"), 80, None)
    assert [line.split()[0] for line in lines[3:4]] == ["video"]
    assert not any(line.startswith("backup") for line in lines)
    assert sum(line.startswith(("kernel", "forwarded", "unattributed")) for line in lines) == 3


def names(view: View) -> list[str]:
    return [line.split()[0] for line in shown(tick(), view, 80)[3:6]]


def test_each_column_sorts_and_the_order_turns_around() -> None:
    assert names(View(GroupBy.APP, sort=Sort.DOWN)) == ["video", "backup", "idle"]
    assert names(View(GroupBy.APP, sort=Sort.UP)) == ["backup", "video", "idle"]
    assert names(View(GroupBy.APP, sort=Sort.TOTAL_UP)) == ["backup", "video", "idle"]
    assert names(View(GroupBy.APP, sort=Sort.NAME)) == ["backup", "idle", "video"]
    assert names(View(GroupBy.APP, sort=Sort.NAME, reverse=True)) == ["video", "idle", "backup"]
    assert names(View(GroupBy.APP, sort=Sort.DOWN, reverse=True)) == ["idle", "backup", "video"]


def test_a_link_that_is_gone_and_warnings_show() -> None:
    lines = shown(tick(present=False, warnings=("wwan0 is gone",)), View(GroupBy.APP), 80, 20)
    assert "GONE" in lines[0]
    assert lines[-2] == "⚠ wwan0 is gone"


def test_a_sparkline_is_as_high_as_the_interval_was_busy() -> None:
    history = {("wwan0", Kind.APP, "video"): [0.0, 1_000_000.0, 2_431_000.0]}
    lines = shown(tick(), View(GroupBy.APP, history=history), 100, 20)
    assert lines[3].endswith(" ▄█")


def test_ascii_terminals_get_ascii() -> None:
    history = {("wwan0", Kind.APP, "video"): [1.0, 2_431_000.0]}
    for view in (View(GroupBy.APP, ascii=True, history=history), View(GroupBy.APP, ascii=True, help=True)):
        "\n".join(shown(tick(), view, 100, 24)).encode("ascii")


def test_long_and_wide_names_keep_the_columns_in_place() -> None:
    rows = (
        app("a-very-long-name-that-does-not-fit", ROWS[0].delta, ROWS[0].total),
        app("日本語のアプリケーション", ROWS[1].delta, ROWS[1].total),
    )
    console = Console(width=80, color_system=None, soft_wrap=True)
    with console.capture() as captured:
        console.print(render(tick(rows + NO_ROWS), View(GroupBy.APP), 80, None))
    lines = [line for line in captured.get().splitlines() if "%" in line]
    assert {cell_len(line) for line in lines} == {80}
    assert "a-very-long-name-that-d… " in lines[0]


def test_process_rows_show_their_pid() -> None:
    process = Process(4711, 5, 1000, "curl", "/usr/bin/curl", (), "/")
    row = replace(ROWS[0], kind=Kind.PROCESS, processes=(process,))
    assert "4711" in shown(tick((row, *NO_ROWS)), View(GroupBy.PROCESS), 80)[3]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_501, "1.00 MB"),
        (12_345_678, "12.3 MB"),
        (10**18, "1000 PB"),
    ],
)
def test_bytes_have_three_digits(count: int, text: str) -> None:
    assert bytes_text(count) == text


def test_binary_units_and_rates() -> None:
    assert bytes_text(1023, Units.IEC) == "1023 B"
    assert bytes_text(1024, Units.IEC) == "1.00 KiB"
    assert bytes_text(5 * 1024**3, Units.IEC) == "5.00 GiB"
    assert rate_text(12_345) == "12.3 kB/s"
    assert rate_text(0.2) == "0"
