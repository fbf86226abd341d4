"""The other end of the emulated link: gives what is asked for, takes what is sent, and pings the phone."""

import asyncio
import os
import socket
import struct
import sys
from typing import cast

CHUNK = bytes(16384)


async def download(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Requests of 8 bytes say how many bytes are wanted."""
    try:
        while request := await reader.read(8):
            left = int.from_bytes(request, "big")
            while left > 0:
                writer.write(CHUNK[:left])
                left -= len(CHUNK)
                await writer.drain()
    except ConnectionError:
        pass
    writer.close()


async def upload(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Takes everything."""
    while await reader.read(65536):
        pass
    writer.close()


class Echo(asyncio.DatagramProtocol):
    """Sends each datagram back."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        self.transport.sendto(data, address)


def echo_request(number: int) -> bytes:
    """An ICMP echo request (RFC 792) with its checksum (RFC 1071)."""
    packet = struct.pack("!BBHHH", 8, 0, 0, os.getpid() & 0xFFFF, number & 0xFFFF) + bytes(56)
    total = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + packet[4:]


async def ping(address: str) -> None:
    """Asks the phone's kernel twice a second whether it is there."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        for number in range(1 << 30):
            raw.sendto(echo_request(number), (address, 0))
            await asyncio.sleep(0.5)


async def main(own: str, phone: str) -> None:
    await asyncio.start_server(download, own, 7001)
    await asyncio.start_server(upload, own, 7002)
    await asyncio.get_running_loop().create_datagram_endpoint(Echo, local_addr=(own, 7003))
    print("ready", flush=True)
    await ping(phone)


asyncio.run(main(sys.argv[1], sys.argv[2]))
