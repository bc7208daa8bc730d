"""kill -9 of the whole process group at random moments, under load: what was acknowledged?

By hand: KILLS=200 python -m tests.kill [WORKERS ...]
"""

import os
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import requests

from tests.events import binding, body, ordinary
from tests.service import Service
from tests.slack_server import EARLY, Slack


@dataclass
class Outcome:
    """What a run found; times in seconds."""

    kills: int = 0
    posted: int = 0
    acknowledged: int = 0
    told: int = 0
    repeated: int = 0
    lost: list[str] = field(default_factory=list)
    early: int = 0

    def __str__(self) -> str:
        return (f"{self.kills} kills: {self.posted} alerts posted, {self.acknowledged} "
                f"acknowledged, {len(self.lost)} of those lost, {self.told} told, "
                f"{self.repeated} repeats, {self.early} posts too early after a 429")


def run(directory: Path, workers: int, kills: int) -> Outcome:
    """Post alerts, some of them again, while the service is killed and started."""
    slack = Slack().start()
    slack.fault_share = 0.05
    service = Service(directory, workers, SLACK_WEBHOOK_URL=slack.webhook)
    acknowledged: list[str] = []
    posted = [0]
    stopped = threading.Event()
    clients = [threading.Thread(target=_load, args=(service, acknowledged, posted, stopped))
               for _ in range(2)]
    try:
        service.start()
        for client in clients:
            client.start()
        for _ in range(kills):
            time.sleep(random.uniform(0.02, 0.5))
            service.kill()
            service.start()
        stopped.set()
        for client in clients:
            client.join()
        # What is in the outbox now is everything; faults must not hold its end up.
        slack.fault_share = 0.0
        deadline = time.monotonic() + 300
        while service.counts()["alerts_pending"]:
            assert time.monotonic() < deadline, f"still to be told: {service.counts()}"
            time.sleep(0.2)
    finally:
        stopped.set()
        service.kill()
        slack.stop()
    # A 429 that arrives as the process dies is known to nobody: the next one posts too early.
    early = slack.violations.count(EARLY)
    assert slack.violations == [EARLY] * early, slack.violations
    told = Counter(_audit_id(message) for message in slack.messages)
    return Outcome(kills, posted[0], len(acknowledged), len(told),
                   sum(told.values()) - len(told), [name for name in acknowledged
                                                    if name not in told], early)


def _load(service: Service, acknowledged: list[str], posted: list[int],
          stopped: threading.Event) -> None:
    """Post one alert among ordinary events at a time, as an API server does: five tries."""
    others = ordinary(20)
    while not stopped.is_set():
        event = binding()
        text = body(*others[:10], event, *others[10:])
        posted[0] += 1
        for _ in range(random.choice((1, 1, 5))):
            try:
                answer = requests.post(f"{service.url}/webhook", data=text, timeout=5)
            except requests.RequestException:
                time.sleep(0.02)
                continue
            if answer.status_code == 200:
                acknowledged.append(event["auditID"])
            break
        time.sleep(random.uniform(0, 0.02))


def _audit_id(message: dict[str, object]) -> str:
    text = str(message)
    at = text.find("audit ID `") + len("audit ID `")
    return text[at:at + 36]


if __name__ == "__main__":
    for count in map(int, sys.argv[1:] or ["1", "3"]):
        with tempfile.TemporaryDirectory() as name:
            started = time.monotonic()
            outcome = run(Path(name), count, int(os.environ.get("KILLS", "20")))
            print(f"{count} workers, {time.monotonic() - started:.0f} s: {outcome}", flush=True)
            if outcome.lost:
                sys.exit(1)
