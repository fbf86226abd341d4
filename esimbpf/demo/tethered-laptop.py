"""A laptop that uses the phone's link: to the phone, its bytes are forwarded."""

import socket
import sys
import time

with socket.create_connection((sys.argv[1], 7001)) as connection:
    while True:
        size = 120_011
        connection.sendall(size.to_bytes(8, "big"))
        while size > 0:
            size -= len(connection.recv(65536))
        time.sleep(0.5)
