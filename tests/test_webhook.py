"""What the caller gets: every row of the table of answers, over a real socket and gunicorn."""

import json
import socket
import time
from contextlib import ExitStack

import pytest
import requests

from tests.conftest import StartService
from tests.events import binding, bodies, body, ordinary, sample, step
from tests.service import Service
from tests.slack_server import Slack
from tests.test_delivery import until

COUNTS = {"received", "alerts", "duplicates", "silenced", "delivered", "queued", "rejected"}


@pytest.fixture
def service(slack: Slack, start_service: StartService) -> Service:
    return start_service(SLACK_WEBHOOK_URL=slack.webhook, AUDIT_MAX_BODY="2000000")


def told(slack: Slack, count: int) -> list[str]:
    """The texts of the messages, once there are so many."""
    until(lambda: len(slack.messages) >= count)
    assert len(slack.messages) == count
    return [message["text"] for message in slack.messages]


def test_all_well(service: Service, slack: Slack) -> None:
    answer = service.post(body(binding(), *ordinary(3)))
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.json() == dict.fromkeys(COUNTS, 0) | {
        "received": 4, "alerts": 1, "delivered": 1}
    assert told(slack, 1) == ["Someone is bound to cluster-admin: `kubernetes-admin` bound "
                              "`User mallory` to `cluster-admin` (clusterrolebinding `x`)"]


def test_the_cluster_stands_in_the_path(service: Service, slack: Slack) -> None:
    event = binding()
    assert service.post(body(event), "/webhook/prod-1.eu").json()["alerts"] == 1
    assert service.post(body(event), "/webhook/prod-2").json()["alerts"] == 1
    assert service.post(body(event), "/webhook/prod-1.eu").json()["duplicates"] == 1
    told(slack, 2)
    assert "`prod-1.eu`" in json.dumps(slack.messages[0])
    for bad in ("/webhook/a b", "/webhook/%0a", "/webhook/" + "x" * 101, "/webhook/-"):
        answer = service.post(body(event), bad)
        assert (answer.status_code, list(answer.json())) == (400, ["error"])


def test_stages_and_repeats_are_one_alert(service: Service, slack: Slack) -> None:
    text = body(*sample("exec-into-pod"))
    assert service.post(text).json() | {"delivered": 1, "queued": 0} == dict.fromkeys(
        COUNTS, 0) | {"received": 3, "alerts": 1, "duplicates": 1, "delivered": 1}
    for _ in range(5):
        assert service.post(text).json()["alerts"] == 0
    first, second = step("X-stages")[-2:]
    assert service.post(body(first)).json()["alerts"] == 1
    assert service.post(body(second)).json()["duplicates"] == 1
    told(slack, 2)


def test_a_forged_audit_id_hides_nothing(service: Service, slack: Slack) -> None:
    assert service.post(body(*step("V18-same-audit-id"))).json()["alerts"] == 2
    told(slack, 2)


@pytest.mark.parametrize("name", ["V19-long-audit-id", "V20-hostile-agent"])
def test_hostile_text_is_told_and_harmless(service: Service, slack: Slack, name: str) -> None:
    assert service.post(body(*step(name))).json()["alerts"] == 1
    told(slack, 1)
    assert "&lt;!channel&gt;" in json.dumps(slack.messages[0])


def test_malformed_items_cost_only_themselves(service: Service, slack: Slack) -> None:
    answer = service.post(body(binding(), 5, {"level": "Metadata"}, binding()))
    assert answer.status_code == 200
    assert (answer.json()["received"], answer.json()["alerts"], answer.json()["rejected"]) == (
        4, 2, 2)
    assert told(slack, 3)[2].startswith("Malformed audit events: 2 of the items")
    assert "expected auditID to be a text, found none" in json.dumps(slack.messages[2])
    service.post(body(6, 7, 8))
    assert service.counts()["rejected_items"] == 5
    time.sleep(0.3)
    told(slack, 3)  # once an hour


@pytest.mark.parametrize("index", range(5))
def test_an_undecodable_item_is_told_and_the_others_go_on(
        service: Service, slack: Slack, index: int) -> None:
    hostile = bodies("hostile-bodies.jsonl")[index]
    extra = json.dumps(binding()).encode()
    text = hostile.replace(b'"items":[', b'"items":[' + extra + b",").replace(
        b"}]}", b"}," + json.dumps(binding()).encode() + b"]}")
    answer = service.post(text)
    expected = 3 if index in (0, 1, 4) else 2
    assert (answer.status_code, answer.json()["alerts"], answer.json()["rejected"]) == (
        200, expected, 0)
    texts = told(slack, expected)
    assert sum("Event made unreadable" in text for text in texts) == expected - 2


@pytest.mark.parametrize("text, said", [
    (b"not JSON", "expected a JSON object of kind EventList"),
    (b'{"kind":"Pod","apiVersion":"v1","items":[]}', "expected kind to be EventList"),
    (b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1beta1","items":[]}',
     "expected apiVersion to be audit.k8s.io/v1"),
    (body(binding())[:-2], "ends too early"),
])
def test_what_is_no_event_list_is_answered_400(
        service: Service, slack: Slack, text: bytes, said: str) -> None:
    for _ in range(5):
        answer = service.post(text)
        assert answer.status_code == 400
        assert said in answer.json()["error"]
    assert told(slack, 1)[0].startswith("A request body was refused")
    assert service.counts()["refused_bodies"] == 5


def test_a_body_over_the_limit_is_answered_413(service: Service, slack: Slack) -> None:
    text = body(binding() | {"userAgent": "x" * 2_000_000})
    answer = service.post(text)
    assert answer.status_code == 413
    assert "AUDIT_MAX_BODY" in answer.json()["error"]
    assert "--audit-webhook-batch-max-size" in answer.json()["error"]
    pieces = (text[at:at + 65536] for at in range(0, len(text), 65536))
    assert requests.post(f"{service.url}/webhook", data=pieces, timeout=30).status_code == 413
    assert "AUDIT_MAX_BODY" in told(slack, 1)[0]
    assert service.counts()["too_large_bodies"] == 2


def test_a_body_in_chunks_is_taken(service: Service) -> None:
    pieces = iter([body(binding())[:500], body(binding())[500:]])
    assert requests.post(f"{service.url}/webhook", data=pieces, timeout=30).json()["alerts"] == 1


def test_a_body_cut_off_by_its_connection_leaves_nothing(service: Service, slack: Slack) -> None:
    text = body(binding())
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n"
                           % (len(text) + 1) + text)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(65536)
    assert b" 200 " not in answer.partition(b"\r\n")[0]
    assert "alerts_sent" not in service.counts()


def test_credentials(slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook, AUDIT_TOKEN="s3cret-token")
    text = body(binding())
    for header in ("", "Bearer", "Bearer wrong", "Bearer s3cret-token2", "Basic s3cret-token",
                   "s3cret-token", "Bearer \xe9"):
        answer = service.post(text, **({"Authorization": header} if header else {}))
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
        assert "AUDIT_TOKEN" in answer.json()["error"]
    assert told(slack, 1)[0].startswith("Requests without valid credentials: 3 requests")
    assert service.post(text, Authorization="Bearer s3cret-token").json()["alerts"] == 1
    assert service.post(text, Authorization="bearer s3cret-token").json()["duplicates"] == 1
    assert "s3cret" not in service.log


def test_health_and_readiness(service: Service, slack: Slack) -> None:
    assert requests.get(f"{service.url}/healthz", timeout=30).json() == {"status": "ok"}
    slack.fault = "200 invalid_auth"
    service.post(body(binding()))
    time.sleep(0.3)
    answer = requests.get(f"{service.url}/readyz", timeout=30)
    assert answer.status_code == 200
    assert answer.json()["counts"]["alerts_pending"] == 1


@pytest.mark.parametrize("method, path, status", [
    ("GET", "/webhook", 405), ("POST", "/", 404), ("GET", "/nothing", 404),
    ("PUT", "/webhook/x", 405)])
def test_every_error_is_one_sentence_of_json(
        service: Service, method: str, path: str, status: int) -> None:
    answer = requests.request(method, service.url + path, timeout=30)
    assert answer.status_code == status
    assert list(answer.json()) == ["error"]


def test_who_does_not_hang_up_stops_nobody(service: Service) -> None:
    with ExitStack() as stack:
        rude = [stack.enter_context(socket.create_connection(("127.0.0.1", service.port)))
                for _ in range(20)]
        for connection in rude:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        started = time.monotonic()
        assert service.post(body(binding())).json()["alerts"] == 1
        assert time.monotonic() - started < 10  # gunicorn's own loop would give each of them 2 s
        assert all(connection.recv(12) == b"HTTP/1.1 200" for connection in rude)


def test_an_answer_before_the_body_was_read_arrives(service: Service) -> None:
    with socket.create_connection(("127.0.0.1", service.port)) as connection:
        connection.sendall(b"POST /webhook HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
                           b"Content-Length: 20000000\r\n\r\n" + b" " * 20_000_000)
        assert connection.recv(12) == b"HTTP/1.1 413"
