"""A process that does with its sockets what a test tells it to.

Run as a program: puppet.py DESCRIPTOR, where the descriptor is one end of a UNIX SOCK_SEQPACKET pair. Each message is
`[action, argument, …]` as JSON; each answer is `{"result": …}` or `{"error": …}`. Sockets are named by descriptor. The
process ends when the other end is closed.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import socket
import struct
import sys
import threading
from typing import Any

CHUNK = 65536
CONTENT = bytes(range(256)) * 256
MSG_ZEROCOPY = 0x4000000  # linux/socket.h
SO_ZEROCOPY = 60  # asm-generic/socket.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
CLONE_NEWNET = 0x40000000  # linux/sched.h
PR_SET_NAME = 15  # linux/prctl.h

sockets: dict[int, socket.socket] = {}


def adopt(sock: socket.socket) -> int:
    """Keep a socket; its descriptor names it."""
    sockets[sock.fileno()] = sock
    return sock.fileno()


def address_of(words: list[Any] | None) -> Any:
    """A socket address from JSON; the hardware address of a packet socket's is written in hexadecimal."""
    if words is None:
        return None
    return (*words[:4], bytes.fromhex(words[4])) if len(words) == 5 else tuple(words)


# --- sockets -----------------------------------------------------------------------------------------------------


def open_socket(family: int, kind: int, protocol: int = 0) -> int:
    return adopt(socket.socket(family, kind, protocol))


def close(fd: int) -> None:
    sockets.pop(fd).close()


def bind(fd: int, address: list[Any]) -> Any:
    sockets[fd].bind(address_of(address))
    return sockets[fd].getsockname()[:2]


def connect(fd: int, address: list[Any]) -> None:
    sockets[fd].connect(address_of(address))


def connect_refused(fd: int, address: list[Any]) -> bool:
    """Whether the other side refuses the connection."""
    try:
        sockets[fd].connect(address_of(address))
    except ConnectionRefusedError:
        return True
    return False


def listen(fd: int) -> int:
    sockets[fd].listen(512)
    return int(sockets[fd].getsockname()[1])


def accept(fd: int) -> int:
    return adopt(sockets[fd].accept()[0])


def option(fd: int, level: int, name: int, value: int | str) -> None:
    """Set a socket option; a text value is the bytes in hexadecimal."""
    sockets[fd].setsockopt(level, name, value if isinstance(value, int) else bytes.fromhex(value))


def shut_down(fd: int) -> None:
    """Say that no more will be sent."""
    sockets[fd].shutdown(socket.SHUT_WR)


# --- streams -----------------------------------------------------------------------------------------------------


def _source(total: int) -> int:
    memory = os.memfd_create("traffic")
    os.truncate(memory, total)
    return memory


def send(fd: int, total: int) -> int:
    left = total
    while left:
        left -= sockets[fd].send(CONTENT[: min(left, CHUNK)])
    return total


def send_by_sendfile(fd: int, total: int) -> int:
    source, sent = _source(total), 0
    while sent < total:
        sent += os.sendfile(fd, source, sent, total - sent)
    os.close(source)
    return sent


def send_by_splice(fd: int, total: int) -> int:
    source, (outlet, inlet), sent = _source(total), os.pipe(), 0
    while sent < total:
        held = os.splice(source, inlet, min(CHUNK, total - sent))
        while held:
            moved = os.splice(outlet, fd, held)
            held -= moved
            sent += moved
    for used in (source, outlet, inlet):
        os.close(used)
    return sent


def send_by_zerocopy(fd: int, total: int) -> int:
    sockets[fd].setsockopt(socket.SOL_SOCKET, SO_ZEROCOPY, 1)
    left = total
    while left:
        left -= sockets[fd].send(CONTENT[: min(left, CHUNK)], MSG_ZEROCOPY)
    return total


def receive(fd: int, total: int | None = None) -> int:
    """Receive that many bytes, or all until the other side has ended."""
    received = 0
    while total is None or received < total:
        got = sockets[fd].recv(CHUNK if total is None else min(CHUNK, total - received))
        if not got:
            break
        received += len(got)
    return received


def exchange(fd: int, to_send: int, to_receive: int) -> list[int]:
    """Send and receive at the same time."""
    sock, sent, received = sockets[fd], 0, 0
    sock.setblocking(False)
    with selectors.DefaultSelector() as ready:
        key = ready.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE)
        while sent < to_send or received < to_receive:
            for _, events in ready.select():
                if events & selectors.EVENT_READ:
                    received += len(sock.recv(CHUNK))
                if events & selectors.EVENT_WRITE and sent < to_send:
                    sent += sock.send(CONTENT[: min(to_send - sent, CHUNK)])
                if sent == to_send:
                    key = ready.modify(key.fileobj, selectors.EVENT_READ)
    sock.setblocking(True)
    return [sent, received]


# --- packets -----------------------------------------------------------------------------------------------------


def send_datagrams(fd: int, address: list[Any] | None, sizes: list[int]) -> int:
    for size in sizes:
        content = CONTENT[:size]
        if address is None:
            sockets[fd].send(content)
        else:
            sockets[fd].sendto(content, address_of(address))
    return sum(sizes)


def send_packet(fd: int, address: list[Any] | None, content: str, times: int = 1) -> None:
    """Send bytes given in hexadecimal."""
    for _ in range(times):
        if address is None:
            sockets[fd].send(bytes.fromhex(content))
        else:
            sockets[fd].sendto(bytes.fromhex(content), address_of(address))


def receive_datagrams(fd: int, total: int) -> int:
    """Receive datagrams until they hold that many bytes together."""
    received = 0
    while received < total:
        received += len(sockets[fd].recv(CHUNK))
    return received


def ping(address: str, count: int, size: int) -> None:
    """Send echo requests by a raw socket, each when the one before has been answered (RFC 792, RFC 4443)."""
    six = ":" in address
    family, protocol = (socket.AF_INET6, socket.IPPROTO_ICMPV6) if six else (socket.AF_INET, socket.IPPROTO_ICMP)
    request, reply, header = (128, 129, 0) if six else (8, 0, 20)
    with socket.socket(family, socket.SOCK_RAW, protocol) as sock:
        # Every raw socket is handed everybody's replies: room for those that come while others are at work.
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 25)
        for number in range(count):
            words = struct.pack("!HH", os.getpid() & 0xFFFF, number) + CONTENT[:size]
            start = bytes([request, 0])
            sock.sendto(start + checksum(start + words).to_bytes(2, "big") + words, (address, 0))
            while True:
                got = sock.recv(CHUNK)[header:]
                if got[0] == reply and got[4:8] == words[:4]:
                    break


def checksum(content: bytes) -> int:
    """The internet checksum (RFC 1071); the kernel does it itself for ICMPv6."""
    padded = content + bytes(len(content) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def send_from_threads(address: list[Any], size: int, threads: int, times: int = 1) -> list[int]:
    """Each thread sends datagrams, each thread's a byte longer than the one's before, on a socket of its own."""
    ids: list[int] = []

    def work(number: int) -> None:
        ids.append(threading.get_native_id())
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            for _ in range(times):
                sock.sendto(CONTENT[: size + number], address_of(address))

    workers = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return ids


def send_whatever_is_refused(address: list[Any], size: int) -> None:
    """Send datagrams until somebody ends this."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        while True:
            with contextlib.suppress(PermissionError):
                sock.sendto(CONTENT[:size], address_of(address))


# --- processes ---------------------------------------------------------------------------------------------------


def set_name(name: str) -> None:
    """Set the command name to bytes given in hexadecimal."""
    ctypes.CDLL(None).prctl(PR_SET_NAME, bytes.fromhex(name), 0, 0, 0)


def become(uid: int) -> None:
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)


def join_cgroup(path: str) -> None:
    with open(f"{path}/cgroup.procs", "w") as processes:
        processes.write(str(os.getpid()))


def enter_namespace(path: str) -> None:
    """Move to another network namespace; the sockets stay in theirs."""
    with open(path) as namespace:
        if ctypes.CDLL(None).setns(namespace.fileno(), CLONE_NEWNET):
            raise OSError(f"cannot enter {path}")


def new_session() -> None:
    os.setsid()


def hand_over(fd: int, name: str) -> None:
    """Pass a descriptor to whoever waits under the name."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as carrier:
        carrier.connect("\0" + name)
        socket.send_fds(carrier, [b"x"], [fd])


def await_descriptor(name: str) -> int:
    """Make a place where a descriptor can be handed over."""
    waiting = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    waiting.bind("\0" + name)
    waiting.listen()
    return adopt(waiting)


def take_descriptor(waiting: int) -> int:
    with sockets[waiting].accept()[0] as carrier:
        _, [fd], _, _ = socket.recv_fds(carrier, 1, 1)
    return adopt(socket.socket(fileno=fd))


def execute(argv: list[str], keep: list[int]) -> None:
    """Become another program that inherits some sockets; there is no answer but the end of this end."""
    for fd in keep:
        os.set_inheritable(fd, True)
    os.execvp(argv[0], argv)


def spawn(programs: list[str], address: str, port: int, first: int, step: int, at_once: int) -> list[tuple[int, int]]:
    """Run each program to its end, some at once, each with an amount of its own; the pid and amount of each."""
    spawned, running = [], set()
    for number, program in enumerate(programs):
        amount = first + step * number
        pid = os.posix_spawn(program, [program, address, str(port), str(amount)], os.environ)
        spawned.append((pid, amount))
        running.add(pid)
        while len(running) >= at_once or (running and number == len(programs) - 1):
            ended, status = os.wait()
            running.discard(ended)
            if status:
                raise OSError(f"a sender failed: {status}")
    return spawned


ACTIONS = {
    action.__name__: action
    for action in (
        open_socket,
        close,
        bind,
        connect,
        connect_refused,
        listen,
        accept,
        option,
        shut_down,
        send,
        send_by_sendfile,
        send_by_splice,
        send_by_zerocopy,
        receive,
        exchange,
        send_datagrams,
        send_packet,
        receive_datagrams,
        ping,
        send_from_threads,
        send_whatever_is_refused,
        set_name,
        become,
        join_cgroup,
        new_session,
        hand_over,
        await_descriptor,
        take_descriptor,
        execute,
        spawn,
        enter_namespace,
    )
}


class Puppet:
    """The loop of one process; a fork goes on with a loop and a control socket of its own."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control

    def work(self) -> None:
        """Do what is asked until nobody is there to ask."""
        while message := self.control.recv(1 << 17):
            action, *arguments = json.loads(message)
            passed: list[int] = []
            try:
                if action == "fork":
                    result: Any = self.fork(passed, *arguments)
                    if result is None:
                        continue  # the child: its first answer comes when it is asked
                elif action == "exit":
                    os._exit(arguments[0])
                else:
                    result = ACTIONS[action](*arguments)
                answer = {"result": result}
            except OSError as error:
                answer = {"error": str(error)}
            socket.send_fds(self.control, [json.dumps(answer).encode()], passed)
            for fd in passed:
                os.close(fd)

    def fork(self, passed: list[int], wanted_pid: int | None = None) -> int | None:
        """Split in two; with `wanted_pid`, until the child has that pid."""
        ours, childs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        while True:
            if wanted_pid is not None:
                with open("/proc/sys/kernel/ns_last_pid", "w") as last:
                    last.write(str(wanted_pid - 1))
            pid = os.fork()
            if pid == 0:
                if wanted_pid is not None and os.getpid() != wanted_pid:
                    os._exit(0)  # somebody else has taken it in between
                self.control.close()
                self.control = childs
                ours.close()
                return None
            if wanted_pid in (None, pid):
                break
        childs.close()
        passed.append(ours.detach())
        return pid


if __name__ == "__main__":
    # Several workers that send at once must not be stopped by one whose peer has gone.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    Puppet(socket.socket(fileno=int(sys.argv[1]))).work()
