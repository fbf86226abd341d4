"""Fetches a piece of a film every two seconds."""

import socket
import sys
import time

with socket.create_connection((sys.argv[1], 7001)) as connection:
    while True:
        size = 2_300_017
        connection.sendall(size.to_bytes(8, "big"))
        while size > 0:
            size -= len(connection.recv(65536))
        time.sleep(2)
