"""gunicorn's settings, from this project's own. WEB_CONCURRENCY is the number of workers."""

import logging
import os
import sys
from typing import Any

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

bind = _settings["AUDIT_BIND"]
worker_class = "gthread"
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
