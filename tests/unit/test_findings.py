"""The findings as a person and as a program sees them."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich.console import Console

from esimbpf.doctor import Finding, State
from esimbpf.sinks.findings import findings_json, findings_table

FINDINGS = (
    Finding("kernel", "kernel", "version", State.WORKS, "6.18.44; tested from 6.18 on"),
    Finding("jit", "kernel", "BPF JIT", State.LOST, "off", "speed", "sysctl -w net.core.bpf_jit_enable=1"),
    Finding("capability.bpf", "rights", "CAP_BPF", State.MISSING, "not held", "everything", "run as root: sudo …"),
    Finding("capability.perfmon", "rights", "CAP_PERFMON", State.MISSING, "not held", "all", "run as root: sudo …"),
    Finding("program.sent", "programs", "sent", State.UNKNOWN, "not tried: it takes root"),
    Finding("program.received", "programs", "received", State.UNKNOWN, "not tried: it takes root"),
    Finding("tc", "programs", "place on a link", State.UNKNOWN, "not tried: it takes root"),
    Finding("link.é", "links", "é", State.WORKS, "[bold red]é is a name of which much could be said in a long line"),
)

TABLE = """\
  kernel
✓ version         6.18.44; tested from 6.18 on
! BPF JIT         off
                  lost: speed
                  do: sysctl -w net.core.bpf_jit_enable=1

  rights
✗ CAP_BPF         not held
                  lost: everything
✗ CAP_PERFMON     not held
                  lost: all
                  do, for these 2: run as root: sudo …

  programs
? sent and 2 more not tried: it takes root

  links
✓ é               [bold red]é is a name of which much could be said in a long
                  line

Counting does not work here: 2 things are missing. 3 things could not be checked.
"""


def shown(findings: Sequence[Finding], width: int, ascii_only: bool = False) -> str:
    console = Console(width=width, color_system=None, force_terminal=False)
    with console.capture() as capture:
        console.print(findings_table(findings, ascii_only))
    return "".join(line.rstrip() + "\n" for line in capture.get().splitlines())


def test_the_whole_table() -> None:
    assert shown(FINDINGS, 81) == TABLE


def test_no_line_is_longer_than_the_terminal_is_wide() -> None:
    for width in (80, 60, 40):
        assert max(map(len, shown(FINDINGS, width).splitlines())) <= width


def test_a_long_name_leaves_room_for_what_is_said_of_it() -> None:
    hook = Finding("hook.x", "hooks", "hooks.d/" + "x" * 72, State.WORKS, "runs as nobody on all events")
    assert shown((hook, FINDINGS[0]), 80).splitlines()[1:5] == [
        "✓ hooks.d/xxxxxxxxxxxxxxxxxx runs as nobody on all events",
        "  xxxxxxxxxxxxxxxxxxxxxxxxxx",
        "  xxxxxxxxxxxxxxxxxxxxxxxxxx",
        "  xx",
    ]


def test_a_terminal_without_unicode_gets_none() -> None:
    text = shown(FINDINGS, 80, ascii_only=True)
    assert text.isascii()
    marks = {line[0] for line in text.splitlines() if line and line[0] != " " and line[1] == " "}
    assert marks == {"+", "!", "x", "?"}
    assert r"\xe9 is a name" in text
    assert "sudo ..." in text


def test_the_summary_says_what_the_findings_come_to() -> None:
    works, lost, missing, *_ = FINDINGS
    for findings, said in (
        ([works], "Counting works here."),
        ([works, lost], "Counting works here; 1 thing is lost or may disturb it."),
        ([works, lost, missing], "Counting does not work here: 1 thing is missing."),
    ):
        assert shown(findings, 80).splitlines()[-1] == said


def test_json_is_one_object_with_every_finding() -> None:
    line = findings_json(FINDINGS, "0.1.0", "6.18.44", "x86_64")
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    document = json.loads(line)
    findings = document.pop("findings")
    assert document == {
        "type": "doctor",
        "v": 1,
        "esimbpf": "0.1.0",
        "kernel": "6.18.44",
        "machine": "x86_64",
        "counting": False,
    }
    assert [finding["id"] for finding in findings] == [finding.id for finding in FINDINGS]
    assert findings[1] == {
        "id": "jit",
        "group": "kernel",
        "title": "BPF JIT",
        "state": "lost",
        "detail": "off",
        "lost": "speed",
        "remedy": "sysctl -w net.core.bpf_jit_enable=1",
    }
    assert (findings[0]["lost"], findings[0]["remedy"]) == (None, None)
    assert json.loads(findings_json(FINDINGS[:2], "", "", ""))["counting"] is True


def test_on_a_narrow_terminal_nothing_is_lost() -> None:
    console = Console(width=20, color_system=None)
    with console.capture() as captured:
        console.print(findings_table(FINDINGS, width=20))
    shown_words = "".join(captured.get().split())
    for finding in FINDINGS:
        # Of several that are unknown for one reason only the first is named.
        named = finding.title if finding.id not in ("program.received", "tc") else ""
        for text in (named, finding.detail, finding.lost, finding.remedy):
            assert "".join(text.split()) in shown_words
