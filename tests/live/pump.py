"""Carries packets between two TUN devices in two network namespaces, loses none and counts them.

Run as a program: pump.py DEVICE_NETNS DEVICE_NAME PEER_NETNS PEER_NAME [gro]
It prints one line when both devices exist. For each line on stdin it prints its counts; at the end of stdin it ends,
and the devices with it.

Without IFF_VNET_HDR the kernel cuts offload packets before a TUN device, so that what is read here is what a modem
would put on the air: one IP packet each, without a link-layer header.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import selectors
import struct
import sys

TUNSETIFF = 0x400454CA  # linux/if_tun.h
IFF_TUN, IFF_NAPI, IFF_NO_PI = 0x0001, 0x0010, 0x1000
CLONE_NEWNET = 0x40000000  # linux/sched.h
MAX_PACKET = 65536
PACKETS_AT_ONCE = 64


def enter(netns: int) -> None:
    """Move to a network namespace (os.setns came with Python 3.12)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(netns, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def open_tun(netns: str, name: str, flags: int) -> int:
    """Make the TUN device in the namespace and return its descriptor."""
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    there = os.open(netns, os.O_RDONLY)
    enter(there)
    tun = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(tun, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TUN | IFF_NO_PI | flags))
    enter(own)
    os.close(own)
    os.close(there)
    return tun


def main(device_netns: str, device_name: str, peer_netns: str, peer_name: str, *options: str) -> None:
    """Carry packets until stdin ends."""
    device = open_tun(device_netns, device_name, IFF_NAPI if "gro" in options else 0)
    peer = open_tun(peer_netns, peer_name, 0)
    counts = {"rx_bytes": 0, "tx_bytes": 0, "rx_packets": 0, "tx_packets": 0, "refused": 0}
    ways = {device: (peer, "tx"), peer: (device, "rx")}
    ready = selectors.DefaultSelector()
    for source in (device, peer, sys.stdin.fileno()):
        ready.register(source, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in ready.select():
            if key.fd not in ways:
                if not os.read(key.fd, 1):
                    return
                print(json.dumps(counts), flush=True)
                continue
            to, direction = ways[key.fd]
            for _ in range(PACKETS_AT_ONCE):
                try:
                    packet = os.read(key.fd, MAX_PACKET)
                except BlockingIOError:
                    break
                try:
                    os.write(to, packet)
                except OSError:  # the device is down
                    counts["refused"] += 1
                    continue
                counts[direction + "_bytes"] += len(packet)
                counts[direction + "_packets"] += 1


if __name__ == "__main__":
    main(*sys.argv[1:])
