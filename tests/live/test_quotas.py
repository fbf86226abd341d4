"""Quotas, as the kernel enforces them: to the packet, in both directions, on one process and not on the other."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from esimbpf.kernel import abi, libbpf
from esimbpf.kernel.mounts import cgroup2_root
from esimbpf.kernel.pins import PINS_VARIABLE, PinnedEngine
from esimbpf.kernel.quotas import Action, Counts, Exe, KernelQuotas, Otherwise, Rule, Some, Whom
from esimbpf.model import NOTHING, Counters
from esimbpf.snapshot import FIRST_PROCESS_SLOT, ReservedSlot
from esimbpf.units import parse_rate
from tests.live.attached import ENVIRONMENT, PINS, command, daemon, end, ledger, said
from tests.live.limited import LARGEST_PACKET, LIMIT, PUPPET, Limited, settled
from tests.live.netlab import Lab, Wire
from tests.live.traffic import Puppet, Sock, connected
from tests.live.watching import Watch

pytestmark = pytest.mark.usefixtures("own_pins")


@pytest.mark.parametrize("lab", [Wire.PLAIN, Wire.OFFLOAD, Wire.RAW_IP], indirect=True, ids=str)
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_what_is_sent_by_tcp_stops_at_the_limit_to_the_packet_and_the_other_loses_nothing(
    limited: Limited, six: bool
) -> None:
    lab = limited.lab
    address = lab.link.network_ip6 if six else lab.link.network_ip
    limited.block(counts=Counts.SENT)
    servers = [Puppet.start(lab.network) for _ in range(2)]
    stopped, other = limited.start(), Puppet.start(lab.device)
    near, far = connected(stopped, servers[0], address)
    near_other, far_other = connected(other, servers[1], address)
    far_other.begin("receive", 30_000_003)
    far.begin("receive")
    near_other.begin("send", 30_000_003)
    with pytest.raises(OSError, match=r"reset|Reset|Broken|aborted"):
        near.do("send", 30_000_003)
    assert other.result() == servers[1].result() == 30_000_003
    used = limited.quotas.used_bytes(1)
    assert LIMIT <= used < LIMIT + LARGEST_PACKET


@pytest.mark.parametrize("lab", [Wire.PLAIN, Wire.MERGE, Wire.RAW_IP], indirect=True, ids=str)
@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_what_is_received_by_tcp_stops_at_the_limit_and_the_other_loses_nothing(limited: Limited, six: bool) -> None:
    lab = limited.lab
    address = lab.link.network_ip6 if six else lab.link.network_ip
    limited.block(counts=Counts.RECEIVED)
    servers = [Puppet.start(lab.network) for _ in range(2)]
    stopped, other = limited.start(), Puppet.start(lab.device)
    near, far = connected(stopped, servers[0], address)
    near_other, far_other = connected(other, servers[1], address)
    near_other.begin("receive", 30_000_003)
    far.begin("send", 30_000_003)
    far_other.begin("send", 30_000_003)
    with pytest.raises(OSError, match="reset"):
        near.do("receive", 30_000_003)
    assert other.result() == servers[1].result() == 30_000_003
    # What is dropped was paid for: it is used, and told apart.
    blocked = limited.blocked(stopped.pid)
    delivered = limited.quotas.used_bytes(1) - blocked.rx_bytes
    # What was merged on its way in counts as one packet.
    largest = 65536 + LARGEST_PACKET if lab.link.wire is Wire.MERGE else LARGEST_PACKET
    assert LIMIT <= delivered < LIMIT + largest
    with pytest.raises(OSError, match="reset"):
        servers[0].result()


@pytest.mark.parametrize("six", [False, True], ids=["ipv4", "ipv6"])
def test_datagrams_stop_at_the_limit_to_the_packet_and_sending_fails_at_once(limited: Limited, six: bool) -> None:
    lab = limited.lab
    address = lab.link.network_ip6 if six else lab.link.network_ip
    header = 48 if six else 28
    size = 1201
    limited.block(300_007)
    before = lab.link.crossed()
    sender, sink = limited.start().udp(six=six), Puppet.start(lab.network).udp(six=six)
    near = sender.do("bind", [lab.link.device_ip6 if six else lab.link.device_ip, 0])
    port = sink.do("bind", ["::" if six else "0.0.0.0", 0])[1]
    passing = -(-300_007 // (size + header))
    with pytest.raises(OSError, match="not permitted"):
        sender.do("send_datagrams", [address, port], [size] * 500)
    crossed = lab.link.crossed() - before
    assert crossed.tx_packets == passing
    assert limited.quotas.used_bytes(1) == crossed.tx_bytes == passing * (size + header)
    # What comes in is used, and not delivered.
    sink.do("send_datagrams", near, [size] * 7)
    crossed = settled(lab.link.crossed_so_far) - before
    assert crossed.rx_packets == 7
    blocked = limited.blocked(sender.puppet.pid)
    assert blocked.rx_bytes == 7 * (size + header)
    assert limited.quotas.used_bytes(1) == crossed.tx_bytes + crossed.rx_bytes
    lab.link.crossed()


def test_a_new_process_of_a_blocked_app_sends_nothing(limited: Limited) -> None:
    lab = limited.lab
    limited.block(0)
    before = lab.link.crossed()
    for _ in range(20):
        puppet = limited.start()
        calling = puppet.tcp()
        with pytest.raises(OSError, match="refused"):
            calling.do("connect", [lab.link.network_ip, 9])
        with pytest.raises(OSError, match="not permitted"):
            puppet.udp().do("send_datagrams", [lab.link.network_ip, 9], [100])
        puppet.exit()
    assert lab.link.crossed() - before == Counters()


def test_only_the_limited_link_is_touched(limited: Limited) -> None:
    """The same process over another link of the device."""
    lab = limited.lab
    limited.block(0)
    second = lab.links[1] if len(lab.links) > 1 else lab.add_link()
    near, far = connected(limited.start(), Puppet.start(lab.network), second.network_ip)
    far.begin("receive", 1_000_003)
    near.do("send", 1_000_003)
    assert far.puppet.result() == 1_000_003


@pytest.mark.parametrize(
    "named",
    [
        *("exe", "exe by path", "user", "app", "app of process", "app of exe", "app of cgroup"),
        *("cgroup", "parent cgroup", "cgroup by path", "parent cgroup by path", "unit"),
        *("everybody", "everybody else", "everybody but an app"),
    ],
)
def test_whom_a_quota_is_about(limited: Limited, tmp_path: Path, named: str) -> None:
    """The limited process is stopped, and another one is not, but where everybody is meant."""
    lab = limited.lab
    here = Path(cgroup2_root(), f"esimbpf-quota-{os.getpid()}")
    inner = here / "inner"
    inner.mkdir(parents=True)
    try:
        meant, other = limited.start(), Puppet.start(lab.device)
        meant.do("join_cgroup", str(inner))
        meant.do("become", 4711)
        sock = meant.udp()
        some = {
            "exe": Some(exes=frozenset({limited.exe})),
            "cgroup": Some(cgroups=frozenset({inner.stat().st_ino})),
            "parent cgroup": Some(cgroups=frozenset({here.stat().st_ino})),
            "user": Some(users=frozenset({4711})),
            "cgroup by path": Some(cgroup_paths=frozenset({f"/{here.name}/{inner.name}"})),
            "parent cgroup by path": Some(cgroup_paths=frozenset({f"/{here.name}"})),
            "unit": Some(units=frozenset({inner.name})),
            "exe by path": Some(exe_paths=frozenset({str(limited.program)})),
            "app": Some(apps=frozenset({limited.program.name})),
            "app of process": Some(apps=frozenset({"mine"})),
            "app of exe": Some(apps=frozenset({"mine"})),
            "app of cgroup": Some(apps=frozenset({"mine"})),
            "everybody": Some(),
            "everybody else": Some(exes=frozenset({exe_of(other.pid)})),
            "everybody but an app": Some(apps=frozenset({"puppet.py"})),
        }[named]
        otherwise = {
            "app of process": Otherwise(processes={(meant.pid, limited.start_of(meant.pid)): "mine"}),
            "app of exe": Otherwise(exes={str(limited.program): "mine"}),
            "app of cgroup": Otherwise(cgroups={f"/{here.name}/{inner.name}": "mine"}),
        }.get(named)
        limited.quotas.write(1, Rule(0, 1, action=Action.BLOCK))
        limited.quotas.name({1: Whom(some, named.startswith("everybody"))}, otherwise)
        limited.quotas.tell_senders(True)
        with pytest.raises(OSError, match="not permitted"):
            sock.do("send_datagrams", [lab.link.network_ip, 9], [100])
        if named == "everybody":
            with pytest.raises(OSError, match="not permitted"):
                other.udp().do("send_datagrams", [lab.link.network_ip, 9], [100])
        else:
            other.udp().do("send_datagrams", [lab.link.network_ip, 9], [100])
        meant.exit()
    finally:
        limited.quotas.name({})
        inner.rmdir()
        here.rmdir()


@pytest.mark.parametrize("named", ["process", "exe", "cgroup"])
def test_what_is_said_to_be_another_app_is_limited_as_that(limited: Limited, named: str) -> None:
    """Whatever its name; a process's own word is last, and its cgroup's comes after its executable's."""
    lab, here = limited.lab, Path(cgroup2_root(), f"esimbpf-quota-{os.getpid()}")
    here.mkdir()
    try:
        meant = limited.start()
        meant.do("join_cgroup", str(here))
        sock = meant.udp()
        known = Otherwise(
            {(meant.pid, limited.start_of(meant.pid)): "process"},
            {str(limited.program): "exe"},
            {f"/{here.name}": "cgroup"},
        )
        otherwise = {
            "process": known,
            "exe": replace(known, processes={}),
            "cgroup": replace(known, processes={}, exes={}),
        }[named]
        for number, app in enumerate(("limited", "cgroup", "exe", "process"), 1):
            action = Action.BLOCK if app == named else Action.NOTIFY
            limited.quotas.write(number, Rule(0, 1, action=action))
        limited.quotas.tell_senders(True)
        apps = {app: Whom(Some(apps=frozenset({app}))) for app in ("limited", "cgroup", "exe", "process")}
        limited.quotas.name(dict(enumerate(apps.values(), 1)), otherwise)
        with pytest.raises(OSError, match="not permitted"):
            sock.do("send_datagrams", [lab.link.network_ip, 9], [100])
        # Without quotas of its own it has none.
        limited.quotas.name({1: apps["limited"]}, otherwise)
        limited.quotas.write(1, Rule(0, 1, action=Action.BLOCK))
        sock.do("send_datagrams", [lab.link.network_ip, 9], [100])
        meant.exit()
    finally:
        limited.quotas.name({})
        here.rmdir()


def test_a_process_is_not_taken_to_be_where_the_one_before_it_was(limited: Limited) -> None:
    """It has gone up in the hierarchy; what is below is still named."""
    lab, here = limited.lab, Path(cgroup2_root(), f"esimbpf-quota-{os.getpid()}")
    inner = here / "a" / "b"
    inner.mkdir(parents=True)
    try:
        some = Some(cgroups=frozenset({here.stat().st_ino, inner.parent.stat().st_ino}))
        limited.quotas.write(1, Rule(0, 1, action=Action.BLOCK))
        limited.quotas.name({1: Whom(some)})
        limited.quotas.tell_senders(True)
        meant = limited.start()
        meant.do("join_cgroup", str(inner))
        sock = meant.udp()
        with pytest.raises(OSError, match="not permitted"):
            sock.do("send_datagrams", [lab.link.network_ip, 9], [100])
        meant.do("join_cgroup", cgroup2_root())
        sock.do("send_datagrams", [lab.link.network_ip, 9], [100])
        meant.exit()
    finally:
        limited.quotas.name({})
        for folder in (inner, inner.parent, here):
            folder.rmdir()


def exe_of(pid: int) -> Exe:
    found = os.stat(f"/proc/{pid}/exe")
    return Exe(os.major(found.st_dev) << 20 | os.minor(found.st_dev), found.st_ino)


# --- with the daemon ---------------------------------------------------------------------------------------------

HEADER = 28
SIZE = 1201


def quota(lab: Lab, state_dir: Path, *words: str) -> None:
    command(lab, "--state-dir", str(state_dir), "quota", *words)


def told(lab: Lab, state_dir: Path, name: str, *before: str) -> dict[str, Any]:
    """How a quota stands."""
    line: dict[str, Any] = json.loads(
        command(lab, *before, "--state-dir", str(state_dir), "quota", "show", name, "--json").stdout
    )
    return line


def send_until_refused(puppet: Puppet, lab: Lab) -> int:
    """The datagrams that crossed the link before sending failed."""
    before = lab.link.crossed()
    with pytest.raises(OSError, match="not permitted"):
        puppet.udp().do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * 2000)
    return (lab.link.crossed() - before).tx_packets


def test_a_quota_that_is_added_is_enforced_and_its_use_is_the_ledgers_and_the_peers(
    lab: Lab, tmp_path: Path, unique: Path
) -> None:
    state = tmp_path / "state"
    with daemon(lab, state) as process:
        quota(lab, state, "add", "small", "--app", "limited", "--limit", "300007B", "--per", "once", "--do", "block")
        said(process, "was read anew")
        sent = send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab)
        assert sent == -(-300_007 // (SIZE + HEADER))
        said(process, "quota small: the limit is reached")
        used = told(lab, state, "small")["used_bytes"]
        assert used == sent * (SIZE + HEADER)
        end(process)
    app = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'limited')"
    assert ledger(state, where=app).total_bytes == used
    # The kernel goes on without a daemon, and with the next one.
    assert send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab) == 0
    with daemon(lab, state) as process:
        assert send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab) == 0
        quota(lab, state, "pause", "small")
        said(process, "was read anew")
        Puppet.start(lab.device, str(unique), "-IS", PUPPET).udp().do(
            "send_datagrams", [lab.link.network_ip, 9], [SIZE] * 3
        )
        quota(lab, state, "resume", "small")
        said(process, "was read anew")
        assert send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab) == 0
        quota(lab, state, "remove", "small")
        said(process, "was read anew")
        Puppet.start(lab.device, str(unique), "-IS", PUPPET).udp().do(
            "send_datagrams", [lab.link.network_ip, 9], [SIZE] * 3
        )
        end(process)


def test_what_is_blocked_is_told_and_kept_to_the_byte_beside_what_crossed_the_link(
    lab: Lab, tmp_path: Path, unique: Path
) -> None:
    state, packet = tmp_path / "state", SIZE + HEADER
    passing = -(-300_007 // packet)
    with daemon(lab, state) as process:
        quota(lab, state, "add", "small", "--app", "limited", "--limit", "300007B", "--per", "once", "--do", "block")
        said(process, "was read anew")
        with Watch(lab, "--by", "process", environment=ENVIRONMENT) as watch:
            stopped = Puppet.start(lab.device, str(unique), "-IS", PUPPET)
            sender, sink = stopped.udp(), Puppet.start(lab.network).udp()
            near = sender.do("bind", [lab.link.device_ip, 0])
            far = [lab.link.network_ip, sink.do("bind", ["0.0.0.0", 0])[1]]
            refused = sum(not passes(sender, far) for _ in range(passing + 43))
            sink.do("send_datagrams", near, [SIZE] * 7)
            settled(lab.link.crossed_so_far)
        truth = watch.truth()
        assert truth == Counters(7 * packet, passing * packet, 7, passing)
        [row] = watch.report.processes(stopped.pid)
        assert row.total == truth
        assert row.blocked == Counters(rx_bytes=truth.rx_bytes, tx_bytes=refused * packet)
        assert refused == 43
        # A daemon that is killed, and the next one that has nothing new, tell nothing twice.
        process.kill()
    with daemon(lab, state) as process:
        end(process)
    app = "kind = 'app' AND app_id = (SELECT id FROM app WHERE name = 'limited')"
    for table in ("minute", "quarter"):
        blocked = Counters(truth.rx_bytes, refused * packet, truth.rx_packets, refused)
        assert ledger(state, f"blocked_{table}") == ledger(state, f"blocked_{table}", app) == blocked
        assert ledger(state, table, app) == truth
    told = [
        json.loads(line) for line in command(lab, "--state-dir", str(state), "report", "--json").stdout.splitlines()
    ]
    [line] = [line for line in told if line.get("app") == "limited"]
    assert (line["rx_bytes"], line["blocked_rx_bytes"], line["blocked_tx_bytes"]) == (
        *(truth.rx_bytes, truth.rx_bytes),
        refused * packet,
    )


def test_what_is_blocked_when_there_is_no_room_for_it_is_counted_without_a_name_and_that_is_said(
    lab: Lab, tmp_path: Path, unique: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PINS_VARIABLE, str(PINS))
    state = tmp_path / "state"
    with daemon(lab, state) as process:
        with PinnedEngine() as engine:
            assert len(fill(engine.map_of("blocked", abi.USAGE.size))) > 10_000
        quota(lab, state, "add", "small", "--app", "limited", "--limit", "0", "--per", "once", "--do", "block")
        said(process, "was read anew")
        with Watch(lab, "--by", "process", environment=ENVIRONMENT) as watch:
            stopped = Puppet.start(lab.device, str(unique), "-IS", PUPPET)
            sender = stopped.udp()
            for _ in range(43):
                assert not passes(sender, [lab.link.network_ip, 9])
        [row] = watch.report.rows("overflow")
        assert (row.total, row.blocked) == (NOTHING, Counters(tx_bytes=43 * (SIZE + HEADER)))
        assert not any(one.blocked for one in watch.report.rows("process"))
        assert any("no room left to tell whose is what quotas block" in one for one in watch.report.warnings)
        assert "blocked: 52.8 kB without a name" in command(lab, "status").stdout
        said(process, "no room left to tell whose is what quotas block")
        end(process)
    assert ledger(state, "blocked_minute") == Counters(tx_bytes=43 * (SIZE + HEADER), tx_packets=43)
    assert ledger(state, "blocked_minute", "kind = 'overflow'") == ledger(state, "blocked_minute")


def fill(blocked: libbpf.Map) -> set[bytes]:
    """Have no room left in the map of what was blocked; the keys of what is in the way, of a link that is not there."""
    keys: set[bytes] = set()
    for slot in count(FIRST_PROCESS_SLOT):
        key = abi.BLOCKED_KEY.pack(abi.MAX_LINKS - 1, slot)
        try:
            blocked.put(key, abi.USAGE.pack(slot, 0, 1, 0))
        except OSError as error:
            if error.errno != errno.E2BIG:
                raise
            break
        keys.add(key)
    return keys


@pytest.mark.parametrize("at_once", [1, 7, 1024, 100_000])
def test_a_hash_is_read_whole_however_much_of_it_is_read_at_once(
    limited: Limited, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One entry at a time has no room for a bucket of two, and is given more."""
    monkeypatch.setattr(libbpf, "_ENTRIES_AT_ONCE", at_once)
    blocked = limited.engine.map_of("blocked", abi.USAGE.size)
    keys = fill(blocked)
    read = list(blocked.items(abi.BLOCKED_KEY.size))
    found = dict(read)
    assert len(read) == len(found)
    assert found.keys() - keys == {abi.BLOCKED_KEY.pack(link, ReservedSlot.OVERFLOW) for link in range(abi.MAX_LINKS)}
    assert all(found[key] == abi.USAGE.pack(abi.BLOCKED_KEY.unpack(key)[1], 0, 1, 0) for key in keys)


def passes(sender: Sock, to: Sequence[object]) -> bool:
    """Whether one datagram can be sent."""
    try:
        sender.do("send_datagrams", to, [SIZE])
    except OSError as error:
        if "not permitted" not in str(error):
            raise
        return False
    return True


def test_a_quota_of_the_configuration_by_path_is_enforced_and_counts_what_the_kernel_has_counted(
    lab: Lab, tmp_path: Path, unique: Path
) -> None:
    rules, state = tmp_path / "config.toml", tmp_path / "state"
    rules.write_text(f'[[quota]]\nname = "by path"\nexe = "{unique}"\nlimit = "100kB"\nper = "day"\ndo = "block"\n')
    with daemon(lab, state, "--config", str(rules)) as process:
        sent = send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab)
        assert sent == -(-100_000 // (SIZE + HEADER))
        end(process)
    with daemon(lab, state, "--config", str(rules)) as process:
        assert send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab) == 0
        end(process)
    shown = command(lab, "--config", str(rules), "--state-dir", str(state), "quota", "show", "by path", "--json")
    assert json.loads(shown.stdout)["used_bytes"] == sent * (SIZE + HEADER)


def test_in_saver_mode_only_what_is_allowed_uses_the_link(lab: Lab, tmp_path: Path, unique: Path) -> None:
    """An app, and DNS for everybody; not NTP, which was not named."""
    state = tmp_path / "state"
    allowed, other = Puppet.start(lab.device, str(unique), "-IS", PUPPET), Puppet.start(lab.device)
    saver = ("--state-dir", str(state), "saver")
    with daemon(lab, state) as process:
        command(lab, *saver, "on", "--allow", "limited", "--allow-dns")
        said(process, "was read anew")
        before = lab.link.crossed()
        allowed.udp().do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * 3)
        other.udp().do("send_datagrams", [lab.link.network_ip, 53], [SIZE] * 5)
        for port in (9, 123):
            with pytest.raises(OSError, match="not permitted"):
                other.udp().do("send_datagrams", [lab.link.network_ip, port], [SIZE])
        with pytest.raises(OSError, match="refused"):
            other.tcp().do("connect", [lab.link.network_ip, 80])
        assert (lab.link.crossed() - before).tx_packets == 8
        command(lab, *saver, "off")
        said(process, "was read anew")
        other.udp().do("send_datagrams", [lab.link.network_ip, 9], [SIZE])
        end(process)


@pytest.mark.parametrize("rate", ["1Mbit", "20Mbit"])
@pytest.mark.parametrize("up", [False, True], ids=["down", "up"])
def test_a_throttled_app_gets_the_rate_and_no_more(
    lab: Lab, tmp_path: Path, unique: Path, rate: str, up: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(PINS_VARIABLE, str(PINS))
    state = tmp_path / "state"
    bytes_per_s = parse_rate(rate)
    with daemon(lab, state) as process:
        words = ("--app", "limited", "--limit", "1B", "--per", "once", "--do", f"throttle:{rate}")
        quota(lab, state, "add", "slow", *words)
        said(process, "was read anew")
        near, far = connected(
            Puppet.start(lab.device, str(unique), "-IS", PUPPET), Puppet.start(lab.network), lab.link.network_ip
        )
        sender, receiver = (near, far) if up else (far, near)
        receiver.begin("receive")
        sender.begin("send", 10**9)
        time.sleep(1.0)
        before, vain, begun = lab.link.crossed_so_far(), blocked_in_all(), time.monotonic()
        time.sleep(10.0)
        crossed, took = lab.link.crossed_so_far() - before, time.monotonic() - begun
        vain = blocked_in_all() - vain
        for one in (near, far):
            one.puppet.kill()
        end(process)
    moved = crossed.tx_bytes if up else crossed.rx_bytes - vain.rx_bytes
    assert moved / took == pytest.approx(bytes_per_s, rel=0.05)
    # Nothing comes in in vain but what was under way: it would have to be paid for.
    assert vain.rx_bytes < 0.02 * moved


def test_while_quotas_change_the_old_or_the_new_holds_at_each_moment(limited: Limited) -> None:
    """Nothing of an app passes that is blocked by one quota after the other, each of which alone would do."""
    lab, quotas = limited.lab, limited.quotas
    here = frozenset({limited.exe})
    users = frozenset({os.getuid()})
    ways = [
        {1: Whom(Some(exes=here))},
        {2: Whom(Some(users=users))},
        {3: Whom(Some(), everybody=True)},
        {2: Whom(Some(users=frozenset({1})), everybody=True), 3: Whom(Some(exes=here), everybody=True)},
        {1: Whom(Some(exes=here), everybody=True), 4: Whom(Some(exes=here))},
    ]
    rules = [Rule(0, 1, action=Action.THROTTLE), Rule(0, 1, action=Action.BLOCK, bytes_per_s=10**9, burst_ns=10**9)]
    for number in (1, 2, 3, 4):
        quotas.write(number, rules[0])
    quotas.name(ways[0])
    before = lab.link.crossed()
    floods = [limited.start() for _ in range(2)]
    for flood in floods:
        flood.begin("send_from_threads", [lab.link.network_ip, 9], SIZE, 2, 10_000_000)
    changes, begun = 0, time.monotonic()
    while time.monotonic() - begun < 5:
        changes += 1
        quotas.write(1 + changes % 4, rules[changes // 4 % 2])
        quotas.name(ways[changes % len(ways)])
    blocked = sum(quotas.blocked().values(), NOTHING)
    assert changes > 100
    assert blocked.tx_packets > 100_000
    assert lab.link.crossed() == before
    for flood in floods:
        flood.kill()


def test_while_a_quota_is_changed_with_the_command_nothing_of_it_passes(
    lab: Lab, tmp_path: Path, unique: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is used up by the old terms and by the new ones. Another limit alone keeps what was used."""
    monkeypatch.setenv(PINS_VARIABLE, str(PINS))
    state, packet = tmp_path / "state", SIZE + HEADER
    passing, passing_then = -(-300_000 // packet), -(-400_000 // packet)
    with daemon(lab, state) as process:

        def change(*words: str) -> None:
            quota(lab, state, *words)
            said(process, "was read anew")

        def sent() -> int:
            return send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab)

        change("add", "small", "--exe", str(unique), "--limit", "300kB", "--per", "day", "--do", "block")
        assert sent() == passing
        change("set", "small", "--limit", "400kB")
        assert sent() == passing_then - passing
        before = lab.link.crossed()
        flood = Puppet.start(lab.device, str(unique), "-IS", PUPPET)
        flood.begin("send_whatever_is_refused", [lab.link.network_ip, 9], SIZE)
        for limit in ("200kB", "299kB", "1kB", "0"):
            change("set", "small", "--limit", limit)
        assert told(lab, state, "small")["used_bytes"] == passing_then * packet
        for words in (
            ("--app", "limited"),
            ("--direction", "up"),
            ("--all",),
            ("--exe", str(unique)),
            ("--per", "week"),
        ):
            change("set", "small", *words)
        assert blocked_in_all().tx_packets > 10_000
        assert lab.link.crossed() == before
        flood.kill()
        change("set", "small", "--limit", "300kB")
        assert sent() == passing
        # What the kernel has counted of another thing is not of this one.
        change("set", "small", "--per", "day")
        assert sent() == passing
        end(process)


def blocked_in_all() -> Counters:
    with PinnedEngine() as engine, KernelQuotas(engine) as quotas:
        return sum(quotas.blocked().values(), NOTHING)


def test_more_quotas_than_the_kernel_has_room_for_are_told_and_the_daemon_goes_on(
    lab: Lab, tmp_path: Path, unique: Path
) -> None:
    """Nine of the same executable, by two paths: those of each path alone would do."""
    rules, state, other = tmp_path / "config.toml", tmp_path / "state", tmp_path / "other path"
    other.symlink_to(unique)
    limits = [f'[[quota]]\nname = "{n}"\nlimit = "1GB"\nper = "day"\ndo = "notify"\n' for n in range(10)]
    named = [f'exe = "{unique}"\n'] * 5 + [f'exe = "{other}"\n'] * 4 + ['app = "limited"\n']
    rules.write_text("".join(limit + name for limit, name in zip(limits, named, strict=True)))
    refused = "quotas hold as before: more than 8 quotas name the same"
    with daemon(lab, state, "--config", str(rules), awaits=(refused, "ready")) as process:
        Puppet.start(lab.device, str(unique), "-IS", PUPPET).udp().do(
            "send_datagrams", [lab.link.network_ip, 9], [SIZE] * 3
        )
        end(process)
    assert told(lab, state, "9", "--config", str(rules))["used_bytes"] == 3 * (SIZE + HEADER)


def test_more_quotas_than_one_process_can_have_are_told_and_those_for_all_hold_nevertheless(
    lab: Lab, tmp_path: Path, unique: Path
) -> None:
    """Eight by its app, eight by its executable and one by its user; beside them seven for all, and the saver mode."""
    rules, state = tmp_path / "config.toml", tmp_path / "state"
    named = ['app = "limited"\n'] * 8 + [f'exe = "{unique}"\n'] * 8 + ["all = true\n"] * 7 + ['user = "root"\n']
    terms = 'limit = "1GB"\nper = "day"\ndo = "notify"\n'
    rules.write_text("".join(f'[[quota]]\nname = "{n}"\n{terms}{whom}' for n, whom in enumerate(named)))
    with daemon(lab, state, "--config", str(rules)) as process:
        limited = Puppet.start(lab.device, str(unique), "-IS", PUPPET)
        limited.udp().do("send_datagrams", [lab.link.network_ip, 9], [SIZE] * 3)
        assert f"quotas are about limited (pid {limited.pid})" in said(process, "more than 16")
        command(lab, "--config", str(rules), "--state-dir", str(state), "saver", "on")
        said(process, "was read anew")
        assert send_until_refused(limited, lab) == 0
        end(process)


def test_what_the_commands_say_without_a_daemon_is_what_the_kernel_does(lab: Lab, tmp_path: Path, unique: Path) -> None:
    state = tmp_path / "state"

    def says(*words: str, state_dir: Path = state) -> str:
        return command(lab, "--state-dir", str(state_dir), *words).stderr.splitlines()[-1]

    with daemon(lab, state) as process:
        quota(lab, state, "add", "small", "--app", "limited", "--limit", "0", "--per", "once", "--do", "block")
        said(process, "was read anew")
        assert says("quota", "pause", "small") == "paused: small"
        said(process, "was read anew")
        assert says("quota", "resume", "small") == "resumed: small"
        said(process, "was read anew")
        process.kill()
    stays = "esimbpf: no daemon is at work: what is enforced stays as esimbpf status tells"
    for words in (("quota", "list"), ("quota", "show", "small"), ("saver",)):
        assert says(*words) == f"{stays} until `esimbpf daemon` runs"
    unchanged = f"{stays}, without this change, until `esimbpf daemon` runs; esimbpf detach ends all of it"
    add = ("quota", "add", "other", "--all", "--limit", "1GB", "--per", "day", "--do", "notify")
    for change in (("quota", "pause", "small"), add, ("quota", "remove", "small"), ("saver", "on"), ("saver", "off")):
        assert says(*change) == unchanged
        assert send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab) == 0
    elsewhere = tmp_path / "elsewhere"
    assert says(*add, state_dir=elsewhere) == (
        f"esimbpf: no daemon is at work for {elsewhere}: nothing of it is enforced; what is attached belongs to {state}"
    )
    command(lab, "--state-dir", str(state), "detach")
    nothing = "esimbpf: no daemon is at work, and nothing is attached: nothing enforces quotas before"
    for last in (("quota", "list"), ("quota", "pause", "other")):
        assert says(*last) == f"{nothing} `esimbpf daemon` runs"
    assert passes(Puppet.start(lab.device, str(unique), "-IS", PUPPET).udp(), [lab.link.network_ip, 9])


def test_a_name_that_two_quotas_have_stops_none_but_one_of_them(lab: Lab, tmp_path: Path, unique: Path) -> None:
    rules, state = tmp_path / "config.toml", tmp_path / "state"
    quota(lab, state, "add", "two", "--app", "limited", "--limit", "1GB", "--per", "day", "--do", "notify")
    passing = -(-100_000 // (SIZE + HEADER))
    terms = 'app = "limited"\nper = "day"\ndo = "block"\n'
    rules.write_text(f'[[quota]]\nname = "two"\nlimit = "100kB"\n{terms}[[quota]]\nname = "x"\nlimit = "1MB"\n{terms}')
    with daemon(lab, state, "--config", str(rules), awaits=("two quotas are named 'two'", "ready")) as process:
        assert send_until_refused(Puppet.start(lab.device, str(unique), "-IS", PUPPET), lab) == passing
        quota(lab, state, "remove", "two")
        said(process, "was read anew")
        end(process)
    for name in ("two", "x"):
        assert told(lab, state, name, "--config", str(rules))["used_bytes"] == passing * (SIZE + HEADER)
