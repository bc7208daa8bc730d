"""Nothing that was acknowledged is lost: crashes, restarts, a dead Slack, a full disk."""

import json
import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests import kill
from tests.conftest import StartService
from tests.events import binding, bodies, body, ordinary, sample
from tests.postgres import Postgres
from tests.service import Service
from tests.slack_server import Slack
from tests.test_delivery import until

Figure = Callable[[str], None]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    server = Postgres().start()
    yield server
    server.stop()
    server.remove()


@pytest.mark.parametrize("workers", [1, 3])
def test_kill_9_loses_nothing_that_was_acknowledged(
        tmp_path: Path, figure: Figure, workers: int) -> None:
    outcome = kill.run(tmp_path, workers, kills=5)
    figure(f"kill -9, {workers} workers: {outcome}")
    assert outcome.acknowledged > 5
    assert outcome.lost == []


@pytest.mark.parametrize("workers", [1, 3])
def test_sigterm_finishes_what_is_in_hand(
        slack: Slack, start_service: StartService, workers: int) -> None:
    service = start_service(workers, SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DELIVERY_BUDGET="0")
    slack.fault, slack.delay = "slow", 1.5
    assert service.post(body(*(binding() for _ in range(5)))).json()["queued"] == 5
    until(lambda: len(slack.attempts) == 1)
    assert service.terminate() == 0
    assert 1 <= len(slack.messages) < 5  # the post in hand was finished
    slack.fault = ""
    service.start()
    until(lambda: service.counts().get("alerts_sent") == 5)
    assert len(slack.messages) == 5  # what had been told was recorded, and not told again


def test_one_sender_across_workers_is_taken_over_when_its_process_dies(
        slack: Slack, start_service: StartService) -> None:
    service = start_service(3, SLACK_WEBHOOK_URL=slack.webhook)
    for _ in range(5):
        for _ in range(4):
            assert service.post(body(binding())).json()["delivered"] == 1
        holder = _holder(service)
        os.kill(holder, signal.SIGKILL)
        service.session = requests.Session()  # its connection may have been the worker's
        assert service.post(body(binding())).json()["alerts"] == 1
        until(lambda: _holder(service) not in (0, holder), 10)
    until(lambda: service.counts()["alerts_sent"] == 25)
    assert max(Counter(str(message) for message in slack.messages).values()) == 1


def test_preloading_changes_nothing(slack: Slack, start_service: StartService) -> None:
    service = start_service(2, SLACK_WEBHOOK_URL=slack.webhook,
                            GUNICORN_CMD_ARGS="--preload")
    for _ in range(6):
        assert service.post(body(binding())).json()["delivered"] == 1
    assert service.terminate(15) == 0


def _holder(service: Service) -> int:
    """The process that holds the sender's lock, as the kernel lists it; 0 for none."""
    inode = os.stat(f"{service.database}.sender").st_ino
    for line in Path("/proc/locks").read_text("ascii").splitlines():
        words = line.split()
        if words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            return int(words[4])
    return 0


def test_a_dead_slack_costs_the_api_server_nothing(
        start_service: StartService, figure: Figure) -> None:
    service = start_service(SLACK_WEBHOOK_URL="http://127.0.0.1:9/nobody",
                            AUDIT_DELIVERY_BUDGET="0.25")
    batch = ordinary(399)
    waits = []
    for _ in range(100):
        text = body(binding(), *batch)
        started = time.monotonic()
        assert service.post(text).json()["alerts"] == 1
        waits.append(time.monotonic() - started)
        time.sleep(0.02)
    waits.sort()
    figure(f"ack of 400 events, Slack dead: p50 {waits[49] * 1000:.1f} ms, "
           f"p99 {waits[98] * 1000:.1f} ms")
    assert waits[49] < 1.0  # a slow disk's fsync is in it
    assert service.counts()["alerts_pending"] == 100


def test_what_waited_for_slack_is_told_late_and_says_so(
        slack: Slack, start_service: StartService) -> None:
    dead = start_service(SLACK_WEBHOOK_URL="http://127.0.0.1:9/nobody", AUDIT_DELIVERY_BUDGET="0")
    for _ in range(5):
        dead.post(body(binding()))
    dead.kill()
    _age(dead, 3700)
    service = start_service(directory=dead.directory, SLACK_WEBHOOK_URL=slack.webhook)
    until(lambda: service.counts().get("alerts_sent") == 5)
    assert all("Told 1 hour late." in json.dumps(message) for message in slack.messages)


def _age(service: Service, seconds: int) -> None:
    """Make everything in the store older."""
    import sqlite3
    connection = sqlite3.connect(service.database)
    connection.execute("UPDATE alerts SET stored_at = stored_at - ?, due_at = 0", (seconds,))
    connection.execute("UPDATE destinations SET retry_at = 0")
    connection.commit()
    connection.close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 600 KB; needs the right to mount."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(directory)],
                             stderr=subprocess.DEVNULL)
    if mounted.returncode:
        pytest.skip("may not mount a small disk here")
    yield directory
    subprocess.run(["umount", "-l", str(directory)], check=True)


def test_a_full_disk(slack: Slack, start_service: StartService, small_disk: Path) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook,
                            AUDIT_DATABASE=str(small_disk / "store.db"))
    assert service.post(body(binding())).json()["delivered"] == 1
    _fill(small_disk)
    acknowledged = 1
    for _ in range(20):
        text = body(binding())
        while (answer := service.post(text)).status_code == 503:
            assert answer.headers["Retry-After"]
            assert "free space" in answer.json()["error"]
        assert answer.json()["alerts"] + answer.json()["duplicates"] == 1
        acknowledged += 1
    until(lambda: len(slack.messages) == acknowledged)
    assert "The store cannot be written" in json.dumps(slack.messages[-1])
    assert "free space on that disk" in service.log

    slack.fault = "500"
    late = body(binding(), binding())
    assert service.post(late).status_code == 503
    assert requests.get(f"{service.url}/readyz", timeout=30).status_code == 503
    slack.fault = ""
    (small_disk / "filling").unlink()
    assert service.post(late).json()["alerts"] == 2
    until(lambda: len(slack.messages) == acknowledged + 3)
    assert any(message["text"].startswith("The store could not be written")
               for message in slack.messages[-3:])
    assert len({json.dumps(message["attachments"]) for message in slack.messages}) == len(
        slack.messages)


def _fill(disk: Path) -> None:
    with open(disk / "filling", "wb", buffering=0) as filling:
        try:
            while True:
                filling.write(b"x" * 512)
        except OSError:
            pass


def test_a_read_only_disk(slack: Slack, start_service: StartService, small_disk: Path) -> None:
    database = str(small_disk / "store.db")
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DATABASE=database)
    assert service.post(body(binding())).json()["delivered"] == 1
    service.terminate()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DATABASE=database)
    slack.fault = "500"
    text = body(binding())
    assert service.post(text).status_code == 503
    slack.fault = ""
    until(lambda: service.post(text).status_code == 200)
    assert len(slack.messages) == 2
    assert "may write the file" in service.log


def _stored(service: Service) -> set[tuple[str, ...]]:
    """What makes each alert in the store the alert that it is."""
    return {(alert["cluster"], alert["auditID"] or "", alert["requestReceivedTimestamp"] or "",
             alert["rule"]) for alert in map(
                 json.loads, service.command("alerts", "--json").splitlines())}


@pytest.mark.parametrize("name", ["baseline-start.jsonl.gz", "baseline-work.jsonl.gz"])
def test_the_captures_make_the_same_alerts_in_any_order(
        tmp_path: Path, start_service: StartService, name: str) -> None:
    texts = [text.replace(b'"items":[', b'"items":[' + json.dumps(binding()).encode() + b",", 1)
             for text in bodies(name)]
    found = []
    for turn, threads in enumerate((1, 8)):
        directory = tmp_path / str(turn)
        directory.mkdir()
        service = start_service(2, directory=directory, AUDIT_DELIVERY_BUDGET="0",
                                SLACK_WEBHOOK_URL="http://127.0.0.1:9/nobody")
        order = texts if threads == 1 else texts[::-1] + texts
        with ThreadPoolExecutor(threads) as pool:
            answers = list(pool.map(lambda text: requests.post(
                f"{service.url}/webhook", data=text, timeout=60), order))
        assert {answer.status_code for answer in answers} == {200}
        found.append(_stored(service))
        service.kill()
    assert found[0] == found[1]
    assert len(found[0]) >= len(texts)


def test_a_60_mb_body_of_real_events_fits_in_250_mb(
        start_service: StartService, figure: Figure) -> None:
    service = start_service(AUDIT_DELIVERY_BUDGET="0",
                            SLACK_WEBHOOK_URL="http://127.0.0.1:9/nobody")
    text = body(*ordinary(22_600), *(binding() for _ in range(200)))
    assert 58_000_000 < len(text) < 64 * 2**20
    assert service.post(text).json()["alerts"] == 200
    peaks = [int(line.split()[1]) for worker in _workers(service) for line in
             Path(f"/proc/{worker}/status").read_text("ascii").splitlines()
             if line.startswith("VmHWM")]
    figure(f"peak memory for a body of {len(text) / 1e6:.0f} MB: {max(peaks) / 1024:.0f} MiB")
    assert max(peaks) < 250 * 1000


def _workers(service: Service) -> list[int]:
    assert service.process is not None
    return [int(name) for name in Path(
        f"/proc/{service.process.pid}/task/{service.process.pid}/children"
    ).read_text("ascii").split()]


def test_secrets_never_reach_the_disk_or_slack(slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook)
    planted = "cGxhbnRlZC1zZWNyZXQ="
    secret = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "x", "annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": planted}},
        "data": {"a": planted}, "stringData": {"b": "{" + planted}}
    anonymous = sample("anonymous-request")[0]
    reference = {"resource": "secrets", "namespace": "a", "name": "x", "apiVersion": "v1"}
    written = {"verb": "update", "objectRef": reference, "level": "RequestResponse",
               "requestObject": secret, "responseObject": secret}
    token = {"kind": "TokenRequest", "status": {"token": planted}, "spec": {"audiences": ["x"]}}
    events = [
        binding() | anonymous | written,
        binding() | anonymous | written | {
            "requestObject": [{"op": "add", "path": "/data/a", "value": planted}]},
        binding() | anonymous | written | {
            "objectRef": {"resource": "configmaps", "name": "x"}, "requestObject": {
                "kind": "List", "items": [secret]}},
        binding() | sample("token-for-a-person")[0] | {"responseObject": token,
                                                       "requestObject": token},
        {key: value for key, value in (binding() | anonymous | written).items()
         if key != "objectRef"},
    ]
    for event in events:
        event["requestReceivedTimestamp"] = binding()["requestReceivedTimestamp"]
    assert service.post(body(*events)).json()["alerts"] == 5
    for broken in (json.dumps(secret).encode(), body(events[0])[:-3],
                   body(events[0]).replace(b'"level"', b'"level":,"x"'),
                   body(events[0] | {"level": 7}), body(events[0] | {"verb": None})[:-700]):
        service.post(broken)
    until(lambda: service.counts().get("alerts_sent", 0) >= 7)
    found = b"".join(file.read_bytes() for file in service.directory.glob("store.db*"))
    for place in (found, service.log.encode(), json.dumps(slack.messages).encode()):
        assert planted.encode() not in place
    assert found.count(b"quarantine") and b"(removed)" in found


class TestPostgreSQL:
    """The same promises with the other database."""

    def test_one_alert_however_often_and_hostile_text(
            self, slack: Slack, start_service: StartService, postgres: Postgres) -> None:
        service = start_service(3, SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DATABASE=postgres.fresh())
        text = body(binding())
        assert service.post(text).json()["delivered"] == 1
        for _ in range(5):
            assert service.post(text).json()["duplicates"] == 1
        for hostile in bodies("hostile-bodies.jsonl"):
            assert service.post(hostile).status_code == 200
        assert service.post(body(binding() | {"auditID": "\0\ud800<!channel>"})).json()[
            "alerts"] == 1
        assert service.post(b"\0 no JSON").status_code == 400
        until(lambda: len(slack.messages) == 6)
        states = [json.loads(line)["state"] for line in
                  service.command("alerts", "--json").splitlines()]
        assert states == ["sent"] * 6

    def test_a_server_that_goes_away(
            self, slack: Slack, start_service: StartService, postgres: Postgres) -> None:
        service = start_service(2, SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DATABASE=postgres.fresh())
        assert service.post(body(binding())).json()["delivered"] == 1
        postgres.stop()
        text = body(binding())
        until(lambda: service.post(text).status_code == 200)  # posted without being stored
        slack.fault = "500"
        left = body(binding())
        assert service.post(left).status_code == 503
        postgres.start()
        slack.fault = ""
        assert service.post(left).json()["alerts"] == 1
        until(lambda: len(slack.messages) == 4)  # with the notice of the outage

    def test_kill_9(self, tmp_path: Path, slack: Slack, start_service: StartService,
                    postgres: Postgres) -> None:
        service = start_service(2, SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DATABASE=postgres.fresh(),
                                AUDIT_DELIVERY_BUDGET="0")
        for _ in range(5):
            for _ in range(3):
                assert service.post(body(binding())).json()["alerts"] == 1
            service.kill()
            service.start()
        until(lambda: service.counts()["alerts_pending"] == 0)
        assert len({json.dumps(message) for message in slack.messages}) == 15
