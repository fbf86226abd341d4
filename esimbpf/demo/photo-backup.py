"""Uploads steadily, 300 kB a second."""

import socket
import sys
import time

with socket.create_connection((sys.argv[1], 7002)) as connection:
    while True:
        connection.sendall(bytes(30_011))
        time.sleep(0.1)
