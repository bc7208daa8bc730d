"""The service under a real gunicorn, as a process group of its own."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import requests

ROOT = Path(__file__).parent.parent


class Service:
    """Start, post to, stop and kill gunicorn; its output is kept in a file."""

    def __init__(self, directory: Path, workers: int = 1, **environment: str) -> None:
        self.directory = directory
        self.port = free_port()
        self.database = directory / "store.db"
        self.log_file = directory / "gunicorn.log"
        self.environment = {
            **{name: value for name, value in os.environ.items()
               if not name.startswith(("AUDIT_", "SLACK_", "CHANNEL_ID"))},
            "AUDIT_BIND": f"127.0.0.1:{self.port}", "AUDIT_DATABASE": str(self.database),
            "WEB_CONCURRENCY": str(workers), "PYTHONWARNINGS": "error", **environment}
        self.process: subprocess.Popen[bytes] | None = None
        self.session = requests.Session()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return self.log_file.read_text("utf-8") if self.log_file.exists() else ""

    def start(self) -> "Service":
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gunicorn", "app:app"], cwd=ROOT, env=self.environment,
                stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                requests.get(f"{self.url}/healthz", timeout=5)
                return self
            except requests.ConnectionError:
                time.sleep(0.02)
        raise AssertionError(f"gunicorn did not start:\n{self.log}")

    def post(self, body: bytes, path: str = "/webhook", **headers: str) -> requests.Response:
        return self.session.post(f"{self.url}{path}", data=body, timeout=60, headers={
            "Content-Type": "application/json", **headers})

    def counts(self) -> Any:
        return requests.get(f"{self.url}/readyz", timeout=10).json()["counts"]

    def command(self, *words: str) -> str:
        """The output of the command kube-audit-slack with the service's own settings."""
        return subprocess.run(
            [sys.executable, "-m", "audit.commands", *words], env=self.environment, cwd=ROOT,
            check=True, stdout=subprocess.PIPE, text=True).stdout

    def terminate(self, timeout: float = 40) -> int:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """kill -9 of the whole process group."""
        if self.process is not None:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            self.process.wait()
            self.session = requests.Session()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
