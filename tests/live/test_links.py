"""Interfaces, namespaces and tc filters of a real kernel."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import pickle
import platform
import select
import struct
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from esimbpf.errors import CannotError, EsimbpfError, NoSuchLink, NotPermitted, UsageError
from esimbpf.kernel import clsact, netns
from esimbpf.kernel.clsact import Direction
from esimbpf.kernel.links import Changes, FoundLink, LinkMonitor, cellular_links, choose, follow, list_links
from esimbpf.model import Link

Result = TypeVar("Result")

NOBODY = 65534
NUMBERS = itertools.count()


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
    return done.stdout


def ip(arguments: str) -> str:
    return run("ip", *arguments.split())


def tc(arguments: str) -> str:
    return run("tc", *arguments.split())


def apart(do: Callable[[], Result]) -> Result:
    """What `do` returns in a child process, which may change its namespace and its user."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(reading)
            with os.fdopen(writing, "wb") as pipe:
                try:
                    pickle.dump((True, do()), pipe)
                except BaseException:
                    pickle.dump((False, traceback.format_exc()), pipe)
            status = 0
        finally:
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    succeeded, value = pickle.loads(answer)
    assert succeeded, value
    return value  # type: ignore[no-any-return]


class Namespace:
    """A network namespace of this test's own."""

    def __init__(self) -> None:
        self.name = f"esimbpf-links-{os.getpid()}-{next(NUMBERS)}"
        ip(f"netns add {self.name}")

    def inside(self, do: Callable[[], Result]) -> Result:
        def entered() -> Result:
            netns.enter(self.name)
            return do()

        return apart(entered)


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    made = Namespace()
    try:
        yield made
    finally:
        ip(f"netns del {made.name}")


def refusal_of(do: Callable[[], object]) -> tuple[type[EsimbpfError], str, str]:
    """The error that `do` raises, in a form that passes between processes."""
    try:
        do()
    except EsimbpfError as error:
        return type(error), error.message, error.hint
    raise AssertionError("no error was raised")


def by_name() -> dict[str, FoundLink]:
    return {found.link.name: found for found in list_links()}


def changes_within(monitor: LinkMonitor, seconds: float = 5) -> Changes:
    readable, _, _ = select.select([monitor], [], [], seconds)
    assert readable, "nothing happened"
    return monitor.poll()


# --- namespaces


def test_a_namespace_is_entered_by_its_name_and_by_a_path(namespace: Namespace) -> None:
    def where() -> tuple[int, int | None]:
        return os.stat("/proc/self/ns/net").st_ino, netns.cookie()

    def by_path() -> tuple[int, int | None]:
        netns.enter(f"/run/netns/{namespace.name}")
        return where()

    there = namespace.inside(where)
    assert there[0] == os.stat(f"/run/netns/{namespace.name}").st_ino
    assert there == apart(by_path)
    here = where()
    assert here[0] != there[0]
    assert here[1] is not None
    assert here[1] != there[1]


def test_a_namespace_that_is_not_there_is_refused_with_those_that_are(namespace: Namespace) -> None:
    kind, message, hint = apart(lambda: refusal_of(lambda: netns.enter("no-such\x1b[2J")))
    assert kind is CannotError
    assert message == r"there is no network namespace no-such\x1b[2J"
    assert namespace.name in hint


@pytest.mark.parametrize("name", ["", ".", "..", "a\0b"])
def test_what_cannot_be_a_namespaces_name_is_refused(name: str) -> None:
    kind, message, _ = apart(lambda: refusal_of(lambda: netns.enter(name)))
    assert kind is CannotError
    assert "no network namespace named" in message


@pytest.mark.parametrize("path", ["/etc/hostname", "/proc/self/ns/mnt", "/proc"])
def test_a_file_that_is_no_namespace_is_refused(path: str) -> None:
    kind, message, _ = apart(lambda: refusal_of(lambda: netns.enter(path)))
    assert (kind, message) == (CannotError, f"{path} is no network namespace")


def test_a_user_without_privilege_may_not_enter(namespace: Namespace) -> None:
    def as_nobody() -> tuple[type[EsimbpfError], str, str]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return refusal_of(lambda: netns.enter(namespace.name))

    kind, _, hint = apart(as_nobody)
    assert kind is NotPermitted
    assert "root" in hint


def sysfs_mounts() -> list[str]:
    return [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if " - sysfs " in line]


def test_sysfs_is_that_of_the_namespace_entered_and_leaves_nothing_mounted(namespace: Namespace) -> None:
    def look() -> tuple[bool, list[str], bool, bool]:
        ip("link add wwan0 type veth peer name tower")
        before = sysfs_mounts(), sorted(os.listdir("/proc/self/fd"))
        with netns.sysfs_net() as (directory, certain):
            listed = sorted(os.listdir(directory))
            ifindex = Path(directory, "wwan0", "ifindex").read_text()
        after = sysfs_mounts(), sorted(os.listdir("/proc/self/fd"))
        return certain, listed, int(ifindex) == by_name()["wwan0"].link.ifindex, before == after

    assert namespace.inside(look) == (True, ["lo", "tower", "wwan0"], True, True)


def test_without_privilege_sysfs_is_the_mounted_one_and_uncertain() -> None:
    def look() -> tuple[str, bool]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        with netns.sysfs_net() as (directory, certain):
            return directory, certain

    assert apart(look) == ("/sys/class/net", False)


def test_without_privilege_links_are_listed_as_root_sees_them() -> None:
    def listed() -> tuple[FoundLink, ...]:
        os.setresuid(NOBODY, NOBODY, NOBODY)
        return list_links()

    assert apart(listed) == list_links()


# --- the list


def test_links_are_listed_as_they_are(namespace: Namespace) -> None:
    def look() -> dict[str, FoundLink]:
        ip("link add wwan0 mtu 1430 type veth peer name tower")
        ip("link property add dev wwan0 altname a-long-alternative-name altname lte")
        ip("addr add 10.64.7.2/32 peer 10.64.7.1 dev wwan0")
        ip("addr add 2001:db8::7/64 dev wwan0 nodad")
        ip("tuntap add rmnet_data0 mode tun")
        ip("tuntap add tap0 mode tap")
        ip("link add br0 type bridge")
        ip("link set wwan0 up")
        ip("link set lo up")
        return by_name()

    found = namespace.inside(look)
    assert set(found) == {"lo", "wwan0", "tower", "rmnet_data0", "tap0", "br0"}
    assert {name: one.link.kind for name, one in found.items()} == {
        "lo": "loopback",
        "wwan0": "veth",
        "tower": "veth",
        "rmnet_data0": "tun",
        "tap0": "tun",
        "br0": "bridge",
    }
    assert {name: one.device_type for name, one in found.items() if name in ("lo", "wwan0", "rmnet_data0")} == {
        "lo": 772,
        "wwan0": 1,
        "rmnet_data0": 65534,
    }
    wwan0 = found["wwan0"]
    assert wwan0.link.addresses == ("10.64.7.2", "2001:db8::7")
    assert (wwan0.mtu, wwan0.link.up, wwan0.state) == (1430, True, "lower layer down")
    assert wwan0.altnames == ("a-long-alternative-name", "lte")
    assert (wwan0.cellular, wwan0.certainty, wwan0.evidence) == (True, "weak", ("name ww*",))
    assert (found["tower"].state, found["lo"].state) == ("down", "up")
    assert [one.link.name for one in cellular_links(tuple(found.values()))] == ["wwan0", "rmnet_data0"]


def test_a_hundred_links_are_listed_whole(namespace: Namespace) -> None:
    def look() -> list[str]:
        batch = "".join(
            f"link add a{n} type veth peer name b{n}\naddr add 10.0.{n}.1/24 dev a{n}\n" for n in range(100)
        )
        subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
        return [f"{one.link.name} {','.join(one.link.addresses)}" for one in list_links()]

    expected = {"lo "} | {f"a{n} 10.0.{n}.1" for n in range(100)} | {f"b{n} " for n in range(100)}
    assert set(namespace.inside(look)) == expected


def test_a_name_of_odd_bytes_is_listed_safely_and_can_be_chosen(namespace: Namespace) -> None:
    raw = b"ww\x1b[2J\xff[b]"

    def look() -> tuple[list[str], list[str]]:
        subprocess.run(["ip", "link", "add", os.fsdecode(raw), "type", "veth", "peer", "name", "tower"], check=True)
        found = list_links()
        return [one.link.name for one in found], [one.link.name for one in choose([os.fsdecode(raw)], found)]

    listed, chosen = namespace.inside(look)
    assert r"ww\x1b[2J\xff[b]" in listed
    assert chosen == [r"ww\x1b[2J\xff[b]"]


def test_a_macvlan_stands_upon_its_link_and_both_are_refused(namespace: Namespace) -> None:
    def look() -> tuple[str, tuple[str, ...], list[str], tuple[type[EsimbpfError], str, str]]:
        ip("link add wwan0 type veth peer name tower")
        ip("link add link wwan0 name guest type macvlan mode bridge")
        found = by_name()
        everything = tuple(found.values())
        return (
            found["guest"].lower,
            found["wwan0"].uppers,
            [one.link.name for one in choose([], everything)],
            refusal_of(lambda: choose(["guest", "wwan0"], everything)),
        )

    lower, uppers, chosen, refusal = namespace.inside(look)
    assert (lower, uppers, chosen) == ("wwan0", ("guest",), ["wwan0"])
    assert refusal == (
        UsageError,
        "wwan0 carries the packets of guest too: together they would be counted twice",
        "name either guest or wwan0",
    )


def test_the_ends_of_a_veth_do_not_carry_each_others_packets(namespace: Namespace) -> None:
    def look() -> list[str]:
        ip("link add wwan0 type veth peer name wwan1")
        return [one.link.name for one in choose(["wwan0", "wwan1"], list_links())]

    assert namespace.inside(look) == ["wwan0", "wwan1"]


# --- watching


def test_a_link_that_goes_and_returns_with_another_index_is_followed(namespace: Namespace) -> None:
    def look() -> list[tuple[bool, bool, bool]]:
        ip("link add wwan0 type veth peer name tower")
        seen = []
        with LinkMonitor() as monitor:
            link = by_name()["wwan0"].link
            ip("link del wwan0")
            changes = changes_within(monitor)
            seen.append((link.ifindex in changes.gone, changes.lost, follow(link, list_links(), changes.gone) is None))
            ip("link add wwan0 type veth peer name tower")
            changes = changes_within(monitor)
            now = follow(link, list_links(), changes.gone)
            seen.append((bool(changes), changes.lost, now is not None and now.link.ifindex != link.ifindex))
        return seen

    assert namespace.inside(look) == [(True, False, True), (True, False, True)]


def test_a_link_that_returns_with_the_same_index_between_two_looks_is_known_as_another(namespace: Namespace) -> None:
    def look() -> tuple[bool, bool]:
        ip("link add wwan0 index 50 type veth peer name tower")
        with LinkMonitor() as monitor:
            ip("link del wwan0")
            ip("link add wwan0 index 50 type veth peer name tower")
            changes = changes_within(monitor)
            return 50 in changes.gone, by_name()["wwan0"].link.ifindex == 50

    assert namespace.inside(look) == (True, True)


def test_a_rename_is_seen_and_followed(namespace: Namespace) -> None:
    def look() -> tuple[bool, int, str]:
        ip("link add wwan0 type veth peer name tower")
        with LinkMonitor() as monitor:
            link = by_name()["wwan0"].link
            ip("link set wwan0 name wwp0s20")
            changes = changes_within(monitor)
            now = follow(link, list_links(), changes.gone)
            assert now is not None
            return bool(changes), len(changes.gone), now.link.name

    assert namespace.inside(look) == (True, 0, "wwp0s20")


@pytest.mark.parametrize(
    "change",
    [
        "link set wwan0 up",
        "link set wwan0 mtu 1400",
        "addr add 10.0.0.1/24 dev wwan0",
        "addr add 2001:db8::1/64 dev wwan0",
        "link add wwan1 type veth peer name tower1",
    ],
)
def test_a_change_of_state_or_address_is_seen(namespace: Namespace, change: str) -> None:
    def look() -> tuple[Changes, Changes]:
        ip("link add wwan0 type veth peer name tower")
        with LinkMonitor() as monitor:
            before = monitor.poll()
            ip(change)
            return before, changes_within(monitor)

    before, after = namespace.inside(look)
    assert not before
    assert after
    assert (after.gone, after.lost) == (frozenset(), False)


def test_a_link_that_moves_to_another_namespace_is_gone(namespace: Namespace) -> None:
    def look() -> bool:
        ip("link add wwan0 type veth peer name tower")
        with LinkMonitor() as monitor:
            link = by_name()["wwan0"].link
            ip(f"link set wwan0 netns {other.name}")
            changes = changes_within(monitor)
            return link.ifindex in changes.gone and follow(link, list_links(), changes.gone) is None

    other = Namespace()
    try:
        assert namespace.inside(look)
    finally:
        ip(f"netns del {other.name}")


def test_a_port_that_leaves_a_bridge_is_not_gone(namespace: Namespace) -> None:
    def look() -> tuple[bool, bool]:
        ip("link add wwan0 type veth peer name tower")
        ip("link add br0 type bridge")
        ip("link set wwan0 master br0")
        with LinkMonitor() as monitor:
            ip("link set wwan0 nomaster")
            changes = changes_within(monitor)
            return changes.concerns(by_name()["wwan0"].link), bool(changes.gone)

    assert namespace.inside(look) == (True, False)


def test_a_watched_link_is_told_from_others_that_come_and_go(namespace: Namespace) -> None:
    def look() -> list[bool]:
        ip("link add wwan0 type veth peer name tower")
        concerned = []
        with LinkMonitor() as monitor:
            link = by_name()["wwan0"].link
            for change in (
                "link add container0 type veth peer name container1",
                "addr add 10.0.0.1/24 dev container0",
                "link del container0",
                "addr add 10.0.0.1/24 dev wwan0",
                "link del wwan0",
                "link add other type veth peer name tower",
                "link set other name wwan0",
            ):
                ip(change)
                concerned.append(changes_within(monitor).concerns(link))
        return concerned

    assert namespace.inside(look) == [False, False, False, True, True, False, True]


def test_after_too_many_changes_the_loss_is_told_and_the_watch_goes_on(namespace: Namespace) -> None:
    def look() -> tuple[Changes, Changes, Changes]:
        ip("link add wwan0 type veth peer name tower")
        with LinkMonitor() as monitor:
            batch = "".join(f"link set wwan0 mtu {1300 + n % 100}\n" for n in range(2000))
            subprocess.run(["ip", "-batch", "-"], input=batch, text=True, check=True)
            flooded = monitor.poll()
            quiet = monitor.poll()
            ip("link set wwan0 up")
            return flooded, quiet, changes_within(monitor)

    flooded, quiet, after = namespace.inside(look)
    assert flooded.lost
    assert flooded.concerns(Link("any", 9, "veth"))
    assert not quiet
    assert after
    assert not after.lost


# --- tc filters


def load_program() -> int:
    """The descriptor of a program that lets every packet go on (r0 = TC_ACT_UNSPEC; exit)."""
    number = {"x86_64": 321, "aarch64": 280, "riscv64": 280, "armv7l": 386}[platform.machine()]
    code = struct.pack("=BBhi", 0xB7, 0, 0, -1) + struct.pack("=BBhi", 0x95, 0, 0, 0)
    instructions, licence = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    sched_cls, prog_load = 3, 5
    attributes = struct.pack("=IIQQ", sched_cls, 2, ctypes.addressof(instructions), ctypes.addressof(licence))
    buffer = ctypes.create_string_buffer(attributes.ljust(120, b"\0"), 120)
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor: int = libc.syscall(number, prog_load, ctypes.byref(buffer), 120)
    assert descriptor >= 0, os.strerror(ctypes.get_errno())
    return descriptor


def link_with_program() -> tuple[int, int]:
    """The ifindex of a fresh link, and a program's descriptor."""
    ip("link add wwan0 type veth peer name tower")
    return by_name()["wwan0"].link.ifindex, load_program()


def qdiscs() -> list[str]:
    return [line.split()[1] for line in tc("qdisc show dev wwan0").splitlines() if "ffff:" in line]


def program_ids() -> set[int]:
    """The programs of all filters on the link."""
    shown = [json.loads(tc(f"-j filter show dev wwan0 {direction}")) for direction in ("ingress", "egress")]
    return {entry["options"]["prog"]["id"] for side in shown for entry in side if "prog" in entry.get("options", {})}


def add_foreign_filter(direction: str, priority: int) -> None:
    # A classic BPF program that matches nothing: `ret 0`.
    bytecode = ["bpf", "bytecode", "1,6 0 0 0"]
    run("tc", "filter", "add", "dev", "wwan0", direction, "pref", str(priority), "handle", "7", *bytecode)


def test_programs_are_attached_in_both_directions_and_taken_off_with_the_qdisc(namespace: Namespace) -> None:
    def look() -> tuple[list[str], list[tuple[str, int, int]], list[bool], list[str]]:
        ifindex, program = link_with_program()
        for direction in Direction:
            clsact.attach(ifindex, program, direction)
        attached = [(f.direction.name, f.priority, f.handle) for f in clsact.stale(ifindex)]
        shown = [tc(f"filter show dev wwan0 {direction}") for direction in ("ingress", "egress")]
        taken = [clsact.detach(ifindex, direction) for direction in (*Direction, Direction.EGRESS)]
        return shown, attached, taken, qdiscs()

    shown, attached, taken, left = namespace.inside(look)
    for text in shown:
        assert "direct-action" in text
        assert "pref 6" in text
        assert "esimbpf+clsact" in text
    assert attached == [
        ("INGRESS", clsact.PRIORITY, clsact.HANDLE),
        ("EGRESS", clsact.PRIORITY, clsact.HANDLE),
    ]
    assert taken == [True, True, False]
    assert left == []


def test_a_restart_takes_the_place_of_what_a_killed_run_left_and_then_leaves_nothing(namespace: Namespace) -> None:
    def look() -> tuple[int, list[bool], list[str]]:
        ifindex, program = link_with_program()
        for direction in Direction:
            clsact.attach(ifindex, program, direction)
        left_behind = program_ids()

        def restarted() -> tuple[int, list[bool], list[str]]:
            mine = load_program()
            for direction in Direction:
                clsact.attach(ifindex, mine, direction)
            replaced = clsact.stale(ifindex)
            assert len(program_ids()) == 1
            assert not left_behind & program_ids()
            return len(replaced), [clsact.detach(ifindex, direction) for direction in Direction], qdiscs()

        return apart(restarted)

    assert namespace.inside(look) == (2, [True, True], [])


def test_a_qdisc_that_was_there_before_stays(namespace: Namespace) -> None:
    def look() -> list[str]:
        ifindex, program = link_with_program()
        tc("qdisc add dev wwan0 clsact")
        clsact.attach(ifindex, program, Direction.EGRESS)
        clsact.detach(ifindex, Direction.EGRESS)
        return qdiscs()

    assert namespace.inside(look) == ["clsact"]


def test_others_filters_are_told_and_left_alone(namespace: Namespace) -> None:
    def look() -> tuple[list[tuple[str, int, int, str]], list[str], str]:
        ifindex, program = link_with_program()
        clsact.attach(ifindex, program, Direction.INGRESS)
        for direction, priority in (("ingress", 900), ("ingress", 2), ("egress", 3)):
            add_foreign_filter(direction, priority)
        others = [(f.direction.name, f.priority, f.handle, f.kind) for f in clsact.others(ifindex)]
        clsact.detach(ifindex, Direction.INGRESS)
        return others, qdiscs(), tc("filter show dev wwan0 ingress")

    others, left, shown = namespace.inside(look)
    assert others == [("INGRESS", 2, 7, "bpf"), ("INGRESS", 900, 7, "bpf"), ("EGRESS", 3, 7, "bpf")]
    assert left == ["clsact"]
    assert "pref 2 " in shown
    assert "pref 900 " in shown
    assert "pref 6 " not in shown


def test_a_foreign_filter_of_our_priority_is_not_replaced(namespace: Namespace) -> None:
    def look() -> tuple[tuple[type[EsimbpfError], str, str], list[int], int]:
        ifindex, program = link_with_program()
        tc("qdisc add dev wwan0 clsact")
        add_foreign_filter("egress", clsact.PRIORITY)
        refusal = refusal_of(lambda: clsact.attach(ifindex, program, Direction.EGRESS))
        return refusal, [f.handle for f in clsact.others(ifindex)], len(clsact.stale(ifindex))

    (kind, message, hint), handles, ours = namespace.inside(look)
    assert kind is CannotError
    assert "has the priority 6 on wwan0" in message
    assert hint.endswith("tc filter show dev wwan0 egress")
    assert (handles, ours) == ([7], 0)


def test_an_ingress_qdisc_is_not_taken_for_clsact(namespace: Namespace) -> None:
    def look() -> tuple[tuple[type[EsimbpfError], str, str], list[str]]:
        ifindex, program = link_with_program()
        tc("qdisc add dev wwan0 ingress")
        return refusal_of(lambda: clsact.attach(ifindex, program, Direction.EGRESS)), qdiscs()

    (kind, message, _), left = namespace.inside(look)
    assert kind is CannotError
    assert "wwan0 has an ingress qdisc" in message
    assert left == ["ingress"]


def test_a_program_that_the_kernel_refuses_leaves_no_qdisc(namespace: Namespace) -> None:
    def look() -> tuple[type[EsimbpfError], list[str]]:
        ifindex, _ = link_with_program()
        no_program = os.open("/dev/null", os.O_RDONLY)
        return refusal_of(lambda: clsact.attach(ifindex, no_program, Direction.EGRESS))[0], qdiscs()

    assert namespace.inside(look) == (CannotError, [])


def test_a_link_that_is_gone_is_told_on_attaching_and_harmless_on_detaching(namespace: Namespace) -> None:
    def look() -> tuple[tuple[type[EsimbpfError], str, str], bool, int]:
        ifindex, program = link_with_program()
        clsact.attach(ifindex, program, Direction.EGRESS)
        ip("link del wwan0")
        refusal = refusal_of(lambda: clsact.attach(ifindex, program, Direction.EGRESS))
        return refusal, clsact.detach(ifindex, Direction.EGRESS), len(clsact.others(ifindex))

    refusal, detached, others = namespace.inside(look)
    assert refusal[0] is NoSuchLink
    assert (detached, others) == (False, 0)


def test_without_privilege_filters_are_shown_and_not_attached(namespace: Namespace) -> None:
    def look() -> tuple[int, type[EsimbpfError], int]:
        ifindex, program = link_with_program()
        clsact.attach(ifindex, program, Direction.EGRESS)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        refused = refusal_of(lambda: clsact.attach(ifindex, program, Direction.INGRESS))[0]
        return len(clsact.stale(ifindex)), refused, len(clsact.stale(ifindex))

    assert namespace.inside(look) == (1, NotPermitted, 1)
