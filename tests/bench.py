"""The benchmark: figures and their ratios to a bare json.loads of the same bytes; asserts nothing.

make bench
"""

import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path

import requests

from audit import rules
from audit.event import Event, decode
from tests.events import binding, bodies, body, ordinary
from tests.service import Service
from tests.slack_server import Slack

ROUNDS = 15
ACKS = 100
BATCH = 400  # events, as a busy API server posts them
CLIENTS = 4


def main() -> None:
    """Print the table."""
    events = [event for name in ("baseline-start.jsonl.gz", "baseline-work.jsonl.gz")
              for text in bodies(name) for event in json.loads(text)["items"]]
    texts = [body(*events[at:at + BATCH]) for at in range(0, len(events), BATCH)]
    count = len(events)
    found = rules.load()
    print(f"{count} events of a real control plane, {sum(map(len, texts)) / 1e6:.1f} MB, "
          f"{len(found.rules)} rules, {os.cpu_count()} cores, {ROUNDS} rounds each\n")

    def loads() -> None:
        for text in texts:
            json.loads(text)

    def decoded() -> None:
        for text in texts:
            for _ in decode(text):
                pass

    def matched() -> None:
        for text in texts:
            for item in decode(text):
                if isinstance(item, Event):
                    found.match(item)

    with tempfile.TemporaryDirectory() as name:
        service = Service(Path(name), SLACK_WEBHOOK_URL="http://127.0.0.1:9/nobody").start()
        clients = [Client(service.port) for _ in range(CLIENTS)]

        def posted() -> None:
            with ThreadPoolExecutor(CLIENTS) as pool:
                for number, client in enumerate(clients):
                    pool.submit(client.post, texts[number::CLIENTS])

        try:
            floor, *others = _rounds(loads, decoded, matched, posted)
        finally:
            service.kill()
    print(f"{'':36}{'events/s':>10}{'ratio to json.loads':>22}")
    print(f"{'json.loads of the whole body':36}{count / statistics.median(floor):>10,.0f}"
          f"{1:>22.2f}")
    for label, seconds in zip(("decode item by item", "decode and match",
                               "over HTTP, one worker"), others):
        ratio = statistics.median(a / b for a, b in zip(floor, seconds))
        print(f"{label:36}{count / statistics.median(seconds):>10,.0f}{ratio:>22.2f}")
    print(f"\n{'ack of 400 events, 10 batches/s':36}{'p50 ms':>10}{'p99 ms':>10}")
    for label, fault in (("Slack well", ""), ("Slack slow (1 s)", "slow"), ("Slack dead", "dead")):
        waits = _acks(fault)
        print(f"{label:36}{waits[len(waits) // 2] * 1e3:>10.1f}"
              f"{waits[int(len(waits) * 0.99) - 1] * 1e3:>10.1f}")
    print(f"\n{'fsync of 4 KB on the same disk':36}", end="")
    waits = _fsyncs()
    print(f"{waits[len(waits) // 2] * 1e3:>10.1f}{waits[int(len(waits) * 0.99) - 1] * 1e3:>10.1f}")


class Client:
    """A connection that costs next to nothing: the service is measured, not its client."""

    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port)

    def post(self, texts: list[bytes]) -> None:
        """Post the bodies one after the other."""
        for text in texts:
            self._connection.request("POST", "/webhook", text)
            answer = self._connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"answered {answer.status}")


def _rounds(*measured: Callable[[], None]) -> list[list[float]]:
    """Seconds of each, taken in turn, so that a machine that drifts drifts for all."""
    seconds: list[list[float]] = [[] for _ in measured]
    for turn in range(ROUNDS + 1):
        for index, function in enumerate(measured):
            started = time.perf_counter()
            function()
            if turn:
                seconds[index].append(time.perf_counter() - started)
    return seconds


def _acks(fault: str) -> list[float]:
    """Sorted seconds until the answer: 400 events with one alert, ten times a second."""
    slack = Slack().start()
    slack.fault, slack.delay = ("slow" if fault == "slow" else ""), 1.0
    url = "http://127.0.0.1:9/nobody" if fault == "dead" else slack.webhook
    others = ordinary(399)
    waits: list[float] = []

    def ack(text: bytes) -> None:
        started = time.perf_counter()
        requests.post(f"{service.url}/webhook", data=text, timeout=60).raise_for_status()
        waits.append(time.perf_counter() - started)

    with tempfile.TemporaryDirectory() as name:
        service = Service(Path(name), SLACK_WEBHOOK_URL=url).start()
        try:
            texts = [body(binding(), *others) for _ in range(ACKS)]
            started, clients = time.perf_counter(), []
            for number, text in enumerate(texts):
                time.sleep(max(0.0, started + number / 10 - time.perf_counter()))
                clients.append(threading.Thread(target=ack, args=(text,)))
                clients[-1].start()
            for client in clients:
                client.join()
        finally:
            service.kill()
            slack.stop()
    return sorted(waits)


def _fsyncs() -> list[float]:
    waits = []
    with tempfile.NamedTemporaryFile() as file:
        for _ in range(200):
            file.write(b"x" * 4096)
            file.flush()
            started = time.perf_counter()
            os.fsync(file.fileno())
            waits.append(time.perf_counter() - started)
            time.sleep(0.005)
    return sorted(waits)


if __name__ == "__main__":
    main()
