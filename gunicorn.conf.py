"""gunicorn's settings, from this project's own. WEB_CONCURRENCY is the number of workers."""

import logging
import os
import socket
import sys
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

import audit
from audit.config import ConfigError, is_open, load
from audit.rules import RuleError
from audit.rules import load as load_rules

try:
    _settings, _ = load(os.environ)
    load_rules(_settings["AUDIT_RULES"])
except (ConfigError, RuleError) as mistakes:
    for line in str(mistakes).splitlines():
        print(f"kube-audit-slack: {line}", file=sys.stderr)
    sys.exit(2)

audit.arbiter = os.getpid()


class ThreadedWorker(ThreadWorker):
    """gunicorn's threads, with a loop that waits for nobody.

    Since 26.0 the loop that hands out all requests waits up to two seconds for each client that
    got its last answer and does not close its end: whoever can connect could stop the API
    server's posts. Here a thread waits, and only while something comes.
    """

    def handle(self, conn: Any) -> Any:
        """Serve one request; see that closing the connection will not wait."""
        goes_on = super().handle(conn)
        if not goes_on:
            _hang_up(conn.sock)
        return goes_on


def _hang_up(connection: socket.socket) -> None:
    """End both directions. What is still on its way is read, lest a reset discards the answer.

    Source: RFC 9112 section 9.6.
    """
    deadline = time.monotonic() + 2.0
    try:
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(0.2)
        while connection.recv(2**16) and time.monotonic() < deadline:
            pass
    except OSError:
        pass  # silent, or gone
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass


bind = _settings["AUDIT_BIND"]
worker_class = ThreadedWorker
threads = 16
# An API server keeps its connections for 90 s (Go's IdleConnTimeout as client-go sets it); one
# that we closed first would cost it a failed batch and ten seconds.
keepalive = 120
graceful_timeout = 30
# It would be a file in the home directory, which nothing here needs.
control_socket_disable = True
# Bodies are not logged, and a line for each batch says nothing that /readyz does not.
accesslog = None

logging.basicConfig(
    level=logging.INFO, stream=sys.stderr,
    format="[%(asctime)s] [%(process)d] [%(levelname)s] %(message)s",
    datefmt="%Y-%m-%d %H:%M:%S %z")  # as gunicorn writes its own
logging.getLogger("urllib3").setLevel(logging.ERROR)


def on_starting(server: Any) -> None:
    """Refuse an address that anybody can reach: `--bind` overrides what was checked above."""
    for address in server.cfg.address:
        if isinstance(address, tuple):
            opened = is_open(f"{address[0]}:{address[1]}", _settings["AUDIT_TOKEN"])
            if opened:
                print(f"kube-audit-slack: {opened}", file=sys.stderr)
                sys.exit(2)
