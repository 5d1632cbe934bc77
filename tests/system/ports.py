# SPDX-License-Identifier: MIT
"""Ports on which nobody listens, and nobody else will: not those that the kernel gives to connections, nor those of another
worker of pytest. So a server may go away and come back to its port."""

import os
import random
import socket

FIRST, LAST, WORKERS = 10000, 32000, 16
EACH = (LAST - FIRST) // WORKERS

worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % WORKERS
last = random.randrange(EACH)


def free_port():
    global last
    for _ in range(EACH):
        last = (last + 1) % EACH
        port = FIRST + worker * EACH + last
        with socket.socket() as s:
            try:
                s.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("all ports are in use")
