"""What `run` says in the end."""

from datetime import UTC, datetime

import orjson

from esimbpf.model import NOTHING, Counters, Process
from esimbpf.sinks.summary import Cost, Summary, summary_json, summary_text

CURL = Cost(Process(7, 70, 1000, "curl", "/usr/bin/curl", (), "/"), "curl", "curl", Counters(2_500_000, 40_001, 99, 88))
PING = Cost(Process(5, 50, 1000, "ping", "/usr/bin/ping", (), "/"), "ping", "ping", Counters(84, 84, 1, 1))


def summary(*costs: Cost, still_running: int = 0, unattributed: Counters = NOTHING) -> Summary:
    return Summary(
        command=("sh", "-c", "curl"),
        status=3,
        links=("wwan0",),
        started=datetime(2026, 11, 23, 12, 0, 1, 250_000, UTC),
        duration_s=75.04,
        peak_rx_bytes_per_s=1_234_567.8,
        peak_tx_bytes_per_s=2.0,
        costs=costs,
        still_running=still_running,
        unattributed=unattributed,
    )


def test_the_block() -> None:
    assert summary_text(summary(PING, CURL)).plain.splitlines() == [
        "esimbpf run sh -c curl  1 min 15 s, status 3, over wwan0",
        "  ↓ 2.50 MB          2,500,084 B         100 packets   peak 1.23 MB/s",
        "  ↑ 40.1 kB             40,085 B          89 packets   peak 2 B/s",
        "    curl                            7  ↓  2.50 MB  ↑  40.0 kB",
        "    ping                            5  ↓     84 B  ↑     84 B",
    ]


def test_what_is_uncertain_is_said() -> None:
    text = summary_text(summary(CURL, still_running=2, unattributed=Counters(rx_bytes=500, rx_packets=1))).plain
    assert "2 of its processes still run" in text
    assert "500 B could not be attributed" in text


def test_many_processes_are_cut_to_the_largest_ten() -> None:
    costs = [Cost(CURL.process, f"p{size}", "p", Counters(rx_bytes=size)) for size in range(1, 15)]
    lines = summary_text(summary(*costs)).plain.splitlines()
    assert "p14" in lines[3]
    assert lines[-1] == "    and 4 more processes"


def test_the_object() -> None:
    document = orjson.loads(summary_json(summary(PING, CURL)))
    assert document["type"] == "run"
    assert document["v"] == 1
    assert document["time"] == "2026-11-23T12:00:01.250Z"
    assert (document["rx_bytes"], document["tx_bytes"], document["status"]) == (2_500_084, 40_085, 3)
    assert [process["pid"] for process in document["processes"]] == [7, 5]
    for field in ("rx_bytes", "tx_bytes", "rx_packets", "tx_packets"):
        assert document[field] == sum(process[field] for process in document["processes"])
