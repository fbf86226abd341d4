"""Whose bytes they are: every byte of a local process under that process, however it came by its socket."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from esimbpf.model import NOTHING, Counters
from tests.live.netlab import Lab, Wire
from tests.live.traffic import (
    IP,
    IPPROTO_MPTCP,
    KINDS,
    UDP,
    Puppet,
    Scene,
    Sock,
    connected,
    datagrams,
    finish,
    ipv4_packet,
    stream,
    udp,
)
from tests.live.watching import Report, Watch

NOBODY = 65534
GOODBYE = IP + 32  # a FIN or its acknowledgement, with TCP's timestamp option


def sent(*sizes: int) -> Counters:
    """UDP datagrams with these contents."""
    return Counters(tx_bytes=sum(sizes) + len(sizes) * (IP + UDP), tx_packets=len(sizes))


def in_datagrams(amount: int) -> Counters:
    """What sender.c sends for an amount."""
    return sent(*([1000] * (amount // 1000)), *([amount % 1000] if amount % 1000 else []))


def assert_all_known(watch: Watch) -> Report:
    """The link is exact and every byte has an owner that is a process."""
    report = watch.report
    assert report.link() == watch.truth()
    assert {kind: report.total(kind) for kind in ("kernel", "forwarded", "unattributed", "overflow")} == dict.fromkeys(
        ("kernel", "forwarded", "unattributed", "overflow"), NOTHING
    )
    return report


@pytest.fixture
def scene(lab: Lab) -> Scene:
    """A process on the device and one in the network."""
    return Scene(lab)


@pytest.fixture
def sink(lab: Lab) -> tuple[str, int]:
    """Where datagrams can be sent that nobody needs to read."""
    sock = Puppet.start(lab.network).udp()
    return lab.link.network_ip, sock.do("bind", [lab.link.network_ip, 0])[1]


# --- processes that come and go -------------------------------------------------------------------------------------


def test_each_of_500_processes_that_live_for_milliseconds_has_its_bytes_and_its_name(
    lab: Lab, scene: Scene, sink: tuple[str, int], sender: Path, tmp_path: Path
) -> None:
    programs = [tmp_path / f"meter-reading-{number}" for number in range(10)]
    for program in programs:
        os.link(sender, program)
    with Watch(lab) as watch:
        runs = [str(programs[number % 10]) for number in range(500)]
        spawned = scene.device.do("spawn", runs, *sink, 1003, 6, 4)
    report = assert_all_known(watch)
    rows = {row.line["pid"]: row for row in report.rows("process")}
    assert len({pid for pid, _ in spawned}) == 500
    assert {pid: row.total for pid, row in rows.items()} == {pid: in_datagrams(amount) for pid, amount in spawned}
    assert {pid: row.name for pid, row in rows.items()} == {
        pid: Path(program).name for (pid, _), program in zip(spawned, runs, strict=True)
    }
    assert {row.line["exe"] for row in rows.values()} == set(runs)
    assert not any(row.line["alive"] for row in rows.values())


def test_a_process_that_sends_and_exits_in_between_two_readings_is_named(
    lab: Lab, scene: Scene, sink: tuple[str, int], sender: Path
) -> None:
    with Watch(lab, interval="30") as watch:
        [(pid, amount)] = scene.device.do("spawn", [str(sender)], *sink, 5_009, 0, 1)
    [row] = assert_all_known(watch).rows("process")
    assert (row.line["pid"], row.name, row.total) == (pid, "sender", in_datagrams(amount))


def test_a_reused_pid_is_another_process(lab: Lab, scene: Scene, sink: tuple[str, int]) -> None:
    with Watch(lab) as watch:
        first = scene.device.fork()
        first.udp().do("send_datagrams", sink, [1003])
        first.exit()
        second = scene.device.fork(wanted_pid=first.pid)
        second.udp().do("send_datagrams", sink, [1401, 1401])
        second.exit()
        assert first.pid == second.pid
    report = assert_all_known(watch)
    rows = sorted(report.processes(first.pid), key=lambda row: row.line["start_time"])
    assert [row.total for row in rows] == [sent(1003), sent(1401, 1401)]
    assert len({row.line["id"] for row in rows}) == 2
    assert len({row.line["start_time"] for row in rows}) == 2


def test_what_a_closed_socket_still_sends_is_its_processs_after_that_has_ended(lab: Lab, scene: Scene) -> None:
    """The receiver's window is small and it does not read, so most of the data waits in the device's kernel."""
    with Watch(lab) as watch:
        narrow = [(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)]
        calling, accepted = connected(scene.device, scene.network, scene.network_ip, server_options=narrow)
        calling.do("option", socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 19)
        pid = scene.device.pid
        assert calling.do("send", 100_003) == 100_003
        scene.device.exit()
        assert (lab.link.crossed() - watch.mark()).tx_bytes < 50_000, "nothing was left for later"
        assert accepted.do("receive") == 100_003
        lab.link.crossed()  # the FIN has been acknowledged: what follows meets a time-wait socket
        accepted.close()
    report = watch.report
    goodbye = Counters(GOODBYE, GOODBYE, 1, 1)
    assert report.link() == watch.truth()
    assert report.total("kernel") == goodbye
    assert report.total("unattributed") == NOTHING
    assert report.process(pid) == watch.truth() - goodbye
    assert report.process(pid).tx_bytes > 100_003


# --- sockets that change hands --------------------------------------------------------------------------------------


def test_answers_of_a_preforked_server_are_its_childrens(lab: Lab, scene: Scene) -> None:
    with Watch(lab) as watch:
        server = scene.device
        listener = server.tcp()
        listener.do("bind", ["0.0.0.0", 0])
        port = listener.do("listen")
        children = [server.fork() for _ in range(4)]
        amounts = [200_003 + 50_002 * number for number in range(4)]
        for child, amount in zip(children, amounts, strict=True):
            calling = scene.network.tcp()
            calling.do("connect", [scene.device_ip, port])
            answering = child_accepts(child, listener)
            stream(answering, calling, amount)
            finish(calling, answering)
    report = assert_all_known(watch)
    for child, amount in zip(children, amounts, strict=True):
        assert amount < report.process(child.pid).tx_bytes < amount * 1.05
    handshakes = report.process(server.pid)
    assert handshakes.tx_bytes < 4 * 200, "the parent has sent no more than the handshakes"


def child_accepts(child: Puppet, listener: Sock) -> Sock:
    """The next connection to a listener that the child has inherited."""
    return child.holding(listener).accept()


def test_workers_that_share_an_inherited_socket_are_told_apart(lab: Lab, scene: Scene, sink: tuple[str, int]) -> None:
    with Watch(lab) as watch:
        shared = scene.device.udp()
        shared.do("send_datagrams", sink, [333])
        workers = [scene.device.fork() for _ in range(4)]
        for turn in range(3):
            for number, worker in enumerate(workers):
                worker.holding(shared).do("send_datagrams", sink, [500 + 2 * number + 10 * turn])
        shared.do("send_datagrams", sink, [335])
    report = assert_all_known(watch)
    assert report.process(scene.device.pid) == sent(333, 335)
    for number, worker in enumerate(workers):
        assert report.process(worker.pid) == sent(*(500 + 2 * number + 10 * turn for turn in range(3)))


def test_threads_are_one_process(lab: Lab, scene: Scene, sink: tuple[str, int]) -> None:
    with Watch(lab) as watch:
        threads = scene.device.do("send_from_threads", sink, 401, 24)
    assert len(set(threads)) > 1
    assert scene.device.pid not in threads
    [row] = assert_all_known(watch).rows("process")
    assert (row.line["pid"], row.total) == (scene.device.pid, sent(*range(401, 425)))


def test_a_descriptor_that_was_passed_on_counts_for_its_receiver(lab: Lab, scene: Scene, sink: tuple[str, int]) -> None:
    receiver = Puppet.start(lab.device)
    with Watch(lab) as watch:
        datagram = scene.device.udp()
        datagram.do("connect", list(sink))
        datagram.do("send_datagrams", None, [203])
        pass_on(datagram, receiver).do("send_datagrams", None, [1205, 1207])
    report = assert_all_known(watch)
    assert report.process(scene.device.pid) == sent(203)
    assert report.process(receiver.pid) == sent(1205, 1207)


def test_a_connection_that_was_passed_on_counts_for_its_receiver_both_ways(lab: Lab, scene: Scene) -> None:
    receiver = Puppet.start(lab.device)
    with Watch(lab) as watch:
        calling, accepted = connected(scene.device, scene.network, scene.network_ip)
        passed = pass_on(calling, receiver)
        calling.close()
        stream(passed, accepted, 300_007)
        stream(accepted, passed, 2_097_169)
        finish(accepted, passed)
    report = assert_all_known(watch)
    opener, user = report.process(scene.device.pid), report.process(receiver.pid)
    assert (opener.tx_packets, opener.rx_packets) == (2, 1), "only the handshake is the opener's"
    assert user == watch.truth() - opener


def pass_on(sock: Sock, receiver: Puppet) -> Sock:
    """Send a descriptor over a UNIX socket."""
    name = f"passing-{receiver.pid}"
    waiting = receiver.do("await_descriptor", name)
    receiver.begin("take_descriptor", waiting)
    sock.do("hand_over", name)
    return Sock(receiver, receiver.result())


def test_a_program_that_takes_over_a_process_keeps_its_row(
    lab: Lab, scene: Scene, sink: tuple[str, int], sender: Path
) -> None:
    with Watch(lab) as watch:
        sock = scene.device.udp()
        sock.do("connect", list(sink))
        sock.do("send_datagrams", None, [203])
        watch.next_interval()
        scene.device.execute([str(sender), "fd", str(sock.fd), "7009"], sock)
        scene.device.wait()
    [row] = assert_all_known(watch).rows("process")
    assert (row.line["pid"], row.total) == (scene.device.pid, sent(203) + in_datagrams(7009))
    assert (row.name, row.line["exe"]) == ("sender", str(sender))


# --- sockets opened before the start ---------------------------------------------------------------------------------


def test_sockets_opened_before_the_start_have_their_owners_from_the_first_packet(lab: Lab, scene: Scene) -> None:
    streamer, listening, talking, raw_user, packet_user, reader = (Puppet.start(lab.device) for _ in range(6))
    calling, accepted = connected(streamer, scene.network, scene.network_ip)
    listener = listening.tcp()
    listener.do("bind", ["0.0.0.0", 0])
    port = listener.do("listen")
    talker = talking.udp()
    far = scene.network.udp()
    far_port = far.do("bind", [scene.network_ip, 0])[1]
    raw = raw_user.socket(socket.AF_INET, socket.SOCK_RAW, 253)
    scene.network.socket(socket.AF_INET, socket.SOCK_RAW, 253)
    packets = packet_user.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
    readable = reader.udp()
    read_port = readable.do("bind", [scene.device_ip, 0])[1]

    with Watch(lab) as watch:
        datagrams(far, readable, [scene.device_ip, read_port], 3, 907)
        datagrams(talker, far, [scene.network_ip, far_port], 3, 703)
        raw.do("send_datagrams", [scene.network_ip, 0], [501])
        packet = ipv4_packet(scene.device_ip, scene.network_ip, bytes(433))
        mac = lab.link.network_mac.replace(":", "")
        packets.do("send_packet", [lab.link.name, 0x0800, 0, 0, mac], packet.hex())
        before = lab.link.crossed()
        stream(accepted, calling, 300_007)
        finish(accepted, calling)
        streamed = lab.link.crossed() - before
        visitor = scene.network.tcp()
        visitor.do("connect", [scene.device_ip, port])
        answering = listener.accept()
        stream(answering, visitor, 200_003)
        finish(visitor, answering)
        served = lab.link.crossed() - before - streamed

    report = assert_all_known(watch)
    assert report.process(reader.pid) == scene.received(3, UDP + 907)
    assert report.process(talking.pid) == sent(703, 703, 703)
    assert report.process(raw_user.pid) == scene.sent(1, 501)
    assert report.process(packet_user.pid) == scene.sent(1, 433)
    assert report.process(streamer.pid) == streamed
    assert report.process(listening.pid) == served


def test_a_multipath_tcp_server_owns_what_it_serves(lab: Lab, scene: Scene) -> None:
    """The listening socket on the wire is one that the kernel made for it."""
    with Watch(lab) as watch:
        calling, accepted = connected(scene.network, scene.device, scene.device_ip, protocol=IPPROTO_MPTCP)
        stream(accepted, calling, 1_048_583)
        finish(calling, accepted)
    report = assert_all_known(watch)
    assert report.process(scene.device.pid) == watch.truth()


# --- namespaces and links --------------------------------------------------------------------------------------------


def test_an_equal_ifindex_in_another_namespace_is_counted_nowhere(lab: Lab, fresh_lab: Lab) -> None:
    assert fresh_lab.link.ifindex == lab.link.ifindex
    with Watch(lab) as watch:
        KINDS["tcp both ways"](fresh_lab)
        KINDS["ping"](fresh_lab)
        KINDS["udp"](fresh_lab)
        KINDS["raw protocol"](fresh_lab)
        KINDS["routed for a host"](fresh_lab)
        moved = udp(lab, down=3, up=5)
    report = assert_all_known(watch)
    assert watch.truth() == moved.exactly
    assert {row.line["pid"] for row in report.rows("process")} == set(moved.pids)


def test_a_socket_belongs_to_its_process_wherever_that_lives(lab: Lab, scene: Scene, sink: tuple[str, int]) -> None:
    """A process opens a socket, moves to another network namespace, and goes on with it."""
    traveller = Puppet.start(lab.device)
    with Watch(lab) as watch:
        at_home = traveller.udp()
        traveller.do("enter_namespace", lab.network.path)
        at_home.do("send_datagrams", sink, [905])
        port = scene.device.udp().do("bind", [scene.device_ip, 0])[1]
        traveller.udp().do("send_datagrams", [scene.device_ip, port], [1203])
    report = assert_all_known(watch)
    assert report.process(traveller.pid) == sent(905), "what it sends from afar is received by another"
    assert report.process(scene.device.pid) == scene.received(1, UDP + 1203)


@pytest.mark.parametrize("fresh_lab", [Wire.PLAIN, Wire.RAW_IP], indirect=True, ids=str)
def test_two_links_are_counted_apart(fresh_lab: Lab) -> None:
    first, second = fresh_lab.link, fresh_lab.add_link()
    scene = Scene(fresh_lab)
    far = scene.network.udp()
    port = far.do("bind", ["0.0.0.0", 0])[1]
    with Watch(fresh_lab, links=("wwan0", "wwan1")) as watch:
        sock = scene.device.udp()
        datagrams(sock, far, [first.network_ip, port], 5, 901)
        datagrams(sock, far, [second.network_ip, port], 3, 1103)
    report = watch.report
    assert [link["link"] for link in report.start["links"]] == ["wwan0", "wwan1"]
    for link, expected in (("wwan0", sent(*[901] * 5)), ("wwan1", sent(*[1103] * 3))):
        assert report.link(link) == watch.truth(link) == expected
        assert report.process(scene.device.pid, link) == expected


@pytest.mark.parametrize("fresh_lab", [Wire.PLAIN, Wire.RAW_IP], indirect=True, ids=str)
def test_a_modem_that_resets_is_counted_on(fresh_lab: Lab) -> None:
    link, scene = fresh_lab.link, Scene(fresh_lab)
    far = scene.network.udp()
    port = far.do("bind", ["0.0.0.0", 0])[1]
    with Watch(fresh_lab) as watch:
        sock = scene.device.udp()
        datagrams(sock, far, [link.network_ip, port], 5, 901)
        old = link.ifindex
        link.down()
        watch.wait_for(lambda line: line["type"] == "link" and not line["present"], "the link's absence")
        link.up()
        assert link.ifindex != old
        watch.wait_for(lambda line: line["type"] == "link" and line["present"], "the link's return")
        datagrams(sock, far, [link.network_ip, port], 3, 1103)
    report = assert_all_known(watch)
    assert report.link() == sent(*[901] * 5, *[1103] * 3)
    assert report.process(scene.device.pid) == report.link()
    assert len(report.warnings) == 1


def test_a_link_that_goes_down_and_up_is_counted_on(fresh_lab: Lab) -> None:
    link, scene = fresh_lab.link, Scene(fresh_lab)
    far = scene.network.udp()
    port = far.do("bind", ["0.0.0.0", 0])[1]
    with Watch(fresh_lab) as watch:
        sock = scene.device.udp()
        datagrams(sock, far, [link.network_ip, port], 5, 901)
        link.flap()
        datagrams(sock, far, [link.network_ip, port], 3, 1103)
    report = assert_all_known(watch)
    assert report.process(scene.device.pid) == report.link() == sent(*[901] * 5, *[1103] * 3)


# --- names and groups ------------------------------------------------------------------------------------------------

HOSTILE = (
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;owned\x07",
    b"new\nline",
    b"carriage\rreturn",
    b"[bold red]x",
    b"\xff\xfe\x80",
    b'quote"back\\slash',
    "\u202edesrever".encode(),
    b" ",
)


def test_hostile_names_are_text_and_harm_no_line(
    lab: Lab, scene: Scene, sink: tuple[str, int], sender: Path, tmp_path: Path
) -> None:
    """`Report` holds every line to be valid, printable and whole."""
    folder = os.fsencode(tmp_path)
    for name in HOSTILE:
        os.link(sender, os.path.join(folder, name))
    programs = [os.fsdecode(os.path.join(folder, name)) for name in HOSTILE]
    with Watch(lab) as watch:
        spawned = scene.device.do("spawn", programs, *sink, 801, 2, 1)
        renamed = []
        for number, name in enumerate(HOSTILE):
            puppet = Puppet.start(lab.device)
            puppet.do("set_name", name.hex())
            puppet.udp().do("send_datagrams", sink, [901 + 2 * number])
            renamed.append((puppet.pid, 901 + 2 * number))
    report = assert_all_known(watch)
    names = report.names()
    for pid, amount in (*spawned, *renamed):
        assert report.process(pid) == sent(amount)
        assert names[pid].isprintable()
    for (started, _), (changed, _), kept in zip(
        spawned, renamed, ("red", "owned", "line", "return", "[bold red]x", "xff", "quote", "desrever", ""), strict=True
    ):
        assert kept in names[started]
        assert kept[:5] in names[changed]


def photo_sync(lab: Lab, folder: Path) -> Puppet:
    """A process that runs a script of that name."""
    script = folder / "sync-photos.py"
    shutil.copy(Path(__file__).parent / "puppet.py", script)
    return Puppet.start(lab.device, sys.executable, "-IS", str(script))


def test_a_script_is_its_own_app_and_not_its_interpreter(lab: Lab, sink: tuple[str, int], tmp_path: Path) -> None:
    puppet = photo_sync(lab, tmp_path)
    with Watch(lab) as watch:
        puppet.udp().do("send_datagrams", sink, [777])
    [row] = assert_all_known(watch).rows("process")
    assert (row.line["app"], row.total) == ("sync-photos.py", sent(777))


def test_processes_of_an_app_are_one_row(lab: Lab, sink: tuple[str, int], tmp_path: Path) -> None:
    photos = [photo_sync(lab, tmp_path) for _ in range(3)]
    other = Puppet.start(lab.device)
    with Watch(lab, "--by", "app") as watch:
        for number, puppet in enumerate(photos):
            puppet.udp().do("send_datagrams", sink, [501 + number])
        other.udp().do("send_datagrams", sink, [777])
    report = assert_all_known(watch)
    rows = {row.name: row for row in report.rows("app")}
    assert {name: row.total for name, row in rows.items()} == {
        "sync-photos.py": sent(501, 502, 503),
        "puppet.py": sent(777),
    }
    assert rows["sync-photos.py"].line["pids"] == sorted(puppet.pid for puppet in photos)


def test_a_rule_of_the_configuration_names_an_app(lab: Lab, sink: tuple[str, int], tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[[app]]\nname = "Photos"\nargs = "*/sync-photos.py *"\n')
    photos, other = photo_sync(lab, tmp_path), Puppet.start(lab.device)
    with Watch(lab, "--by", "app", before=["--config", str(config)]) as watch:
        photos.udp().do("send_datagrams", sink, [501])
        other.udp().do("send_datagrams", sink, [777])
    report = assert_all_known(watch)
    assert {row.name: row.total for row in report.rows("app")} == {"Photos": sent(501), "puppet.py": sent(777)}


def test_processes_of_a_user_are_one_row(lab: Lab, sink: tuple[str, int]) -> None:
    roots, nobodies = ([Puppet.start(lab.device) for _ in range(2)] for _ in range(2))
    with Watch(lab, "--by", "user") as watch:
        for number, puppet in enumerate(nobodies):
            puppet.do("become", NOBODY)
            puppet.udp().do("send_datagrams", sink, [301 + number])
        for number, puppet in enumerate(roots):
            puppet.udp().do("send_datagrams", sink, [701 + number])
    report = assert_all_known(watch)
    assert {(row.line["uid"], row.name): row.total for row in report.rows("user")} == {
        (0, "root"): sent(701, 702),
        (NOBODY, "nobody"): sent(301, 302),
    }


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A cgroup (v2) of the test's own."""
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text().splitlines())
    [root, *_] = [Path(words[1]) for words in mounts if words[2] == "cgroup2"]
    made = root / f"esimbpf-test-{os.getpid()}"
    made.mkdir()
    yield made
    made.rmdir()


def test_processes_of_a_cgroup_are_one_row(lab: Lab, sink: tuple[str, int], cgroup: Path) -> None:
    inside, outside = [Puppet.start(lab.device) for _ in range(2)], Puppet.start(lab.device)
    for puppet in inside:
        puppet.do("join_cgroup", str(cgroup))
    with Watch(lab, "--by", "cgroup") as watch:
        for number, puppet in enumerate(inside):
            puppet.udp().do("send_datagrams", sink, [301 + number])
        outside.udp().do("send_datagrams", sink, [777])
    for puppet in inside:
        puppet.exit()  # an occupied cgroup cannot be removed
    report = assert_all_known(watch)
    rows = {row.line["cgroup"]: row for row in report.rows("cgroup")}
    assert rows[f"/{cgroup.name}"].total == sent(301, 302)
    assert rows[f"/{cgroup.name}"].line["pids"] == sorted(puppet.pid for puppet in inside)
    assert sum((row.total for row in rows.values()), NOTHING) == sent(301, 302, 777)
