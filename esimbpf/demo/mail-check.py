"""Starts a process for each of five mailboxes, twice a second; each asks one question and is gone in milliseconds."""

import os
import socket
import sys
import time


def check(server: str) -> None:
    with socket.create_connection((server, 7001), timeout=1) as connection:
        size = 2_003
        connection.sendall(size.to_bytes(8, "big"))
        while size > 0:
            size -= len(connection.recv(65536))


while True:
    for _ in range(5):
        if os.fork() == 0:
            try:
                check(sys.argv[1])
            finally:
                os._exit(0)
    for _ in range(5):
        os.wait()
    time.sleep(0.5)
