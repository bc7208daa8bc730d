"""Fixtures: a strict Slack, and the service under gunicorn."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.service import Service
from tests.slack_server import Slack

StartService = Callable[..., Service]
FIGURES: list[str] = []


@pytest.fixture
def figure() -> Callable[[str], None]:
    """Print what was measured at the end of the run: machines differ, so little is asserted."""
    return FIGURES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures, when there are any."""
    if FIGURES:
        terminalreporter.section("measured")
    for line in FIGURES:
        terminalreporter.line(line)


@pytest.fixture
def slack() -> Iterator[Slack]:
    server = Slack().start()
    yield server
    server.stop()
    assert server.violations == []


@pytest.fixture
def start_service(tmp_path: Path) -> Iterator[StartService]:
    """Start services that are killed at the end of the test.

    Their answers wait for the sender far longer than it takes on a busy machine; a test of the
    budget sets its own.
    """
    services: list[Service] = []

    def start(workers: int = 1, directory: Path = tmp_path, **environment: str) -> Service:
        environment.setdefault("AUDIT_DELIVERY_BUDGET", "20")
        services.append(Service(directory, workers, **environment))
        return services[-1].start()

    yield start
    for service in services:
        service.kill()
