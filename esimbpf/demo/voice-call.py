"""Talks and listens: 50 small datagrams a second each way, as a voice call does."""

import socket
import sys
import time
from contextlib import suppress

with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as call:
    call.connect((sys.argv[1], 7003))
    call.setblocking(False)
    while True:
        call.send(bytes(160))
        time.sleep(0.02)
        with suppress(BlockingIOError):
            call.recv(2048)
