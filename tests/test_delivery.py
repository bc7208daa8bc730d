"""The sender against a Slack that refuses, limits, breaks and disappears."""

import json
import time
from collections.abc import Callable

import pytest
import requests

from tests.conftest import StartService
from tests.events import binding, body, ordinary, sample
from tests.service import Service
from tests.slack_server import CHANNEL, TOKEN, Slack


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture(params=["webhook", "token"])
def service(request: pytest.FixtureRequest, slack: Slack, start_service: StartService) -> Service:
    settings = {"SLACK_WEBHOOK_URL": slack.webhook} if request.param == "webhook" else {
        "SLACK_API_URL": f"{slack.url}/api", "SLACK_TOKEN": TOKEN, "CHANNEL_ID": CHANNEL}
    return start_service(**settings)


def no_credentials(service: Service) -> bool:
    text = service.log + service.command("outbox", "list") + requests.get(
        f"{service.url}/readyz", timeout=30).text
    return "secret-webhook-path" not in text and "secret-token" not in text


def test_an_alert_is_told_before_the_answer(service: Service, slack: Slack) -> None:
    for name in ("exec-into-pod", "privileged-pod", "wildcard-role", "token-for-a-person"):
        started = time.monotonic()
        answer = service.post(body(*sample(name)))
        assert answer.json()["delivered"] == 1
        assert time.monotonic() - started < 4
    assert len(slack.messages) == 4


@pytest.mark.parametrize("fault", ["500", "drop", "503 service_unavailable"])
def test_a_passing_fault_is_tried_again(service: Service, slack: Slack, fault: str) -> None:
    slack.faults.extend([fault, fault])
    assert service.post(body(binding())).json()["alerts"] == 1
    until(lambda: len(slack.messages) == 1)
    assert len(slack.attempts) == 3
    until(lambda: service.counts().get("alerts_sent") == 1)
    assert no_credentials(service)


def test_retry_after_is_obeyed(service: Service, slack: Slack) -> None:
    slack.faults.append("429")
    for _ in range(3):
        service.post(body(binding()))
    until(lambda: len(slack.messages) == 3)
    assert 2.0 <= slack.attempts[1] - slack.attempts[0] < 3.5
    assert len(slack.attempts) == 4


def test_a_lost_reply_makes_one_repeat_that_says_so(service: Service, slack: Slack) -> None:
    slack.faults.append("lost")
    service.post(body(binding()))
    until(lambda: len(slack.messages) == 2)
    time.sleep(0.5)
    assert len(slack.messages) == 2
    assert "may be a repeat" not in json.dumps(slack.messages[0])
    assert "may be a repeat" in json.dumps(slack.messages[1])


@pytest.mark.parametrize("webhook, web_api", [
    ("400 invalid_blocks", "200 invalid_blocks"), ("400 invalid_payload", "200 no_text"),
    ("400 msg_blocks_too_long", "200 msg_too_long")])
def test_what_slack_never_takes_is_told_as_plain_text(
        service: Service, slack: Slack, webhook: str, web_api: str) -> None:
    fault = web_api if "SLACK_TOKEN" in service.environment else webhook
    slack.faults.append(fault)
    service.post(body(binding()))
    until(lambda: len(slack.messages) == 1)
    assert "blocks" not in slack.messages[0]
    assert slack.messages[0]["text"].startswith("Someone is bound to cluster-admin")


def test_what_is_refused_twice_is_set_aside_and_can_be_requeued(
        service: Service, slack: Slack) -> None:
    word = "200 invalid_blocks" if "SLACK_TOKEN" in service.environment else "400 invalid_blocks"
    slack.faults.extend([word, word])
    service.post(body(binding()))
    until(lambda: service.counts().get("alerts_set_aside") == 1)
    assert service.post(body(binding())).json()["delivered"] == 1  # it stops no other
    listed = service.command("outbox", "list")
    assert "set-aside" in listed and "invalid_blocks" in listed
    number = listed.split()[0]
    assert service.command("outbox", "requeue", number) == "1 alert will be sent again.\n"
    until(lambda: len(slack.messages) == 2)
    until(lambda: "Nothing waits" in service.command("outbox", "list"))
    assert no_credentials(service)


@pytest.mark.parametrize("webhook, web_api", [
    ("403 invalid_token", "200 invalid_auth"), ("404 no_service", "200 channel_not_found"),
    ("410 channel_is_archived", "200 is_archived"), ("302 moved", "200 some_new_word")])
def test_a_wrong_configuration_is_shouted_about_and_loses_nothing(
        service: Service, slack: Slack, webhook: str, web_api: str) -> None:
    slack.fault = web_api if "SLACK_TOKEN" in service.environment else webhook
    service.post(body(binding()))
    until(lambda: "NOTHING IS DELIVERED" in service.log)
    answer = requests.get(f"{service.url}/readyz", timeout=30)
    assert answer.status_code == 200
    destination = answer.json()["destination"]
    assert (destination["well"], destination["reason"]) == (False, "configuration")
    assert slack.fault.split()[1] in destination["error"] or "302" in destination["error"]
    time.sleep(1)
    assert len(slack.attempts) == 1  # retried slowly
    started = time.monotonic()
    assert service.post(body(binding())).json()["queued"] == 1
    assert time.monotonic() - started < 3  # and no answer waits for it
    assert no_credentials(service)


def test_one_bad_message_stops_no_other(slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook)
    slack.faults.extend(["500"] * 4)
    service.post(body(binding()))
    until(lambda: len(slack.attempts) == 4)
    slack.faults.append("500")
    service.post(body(binding()))
    until(lambda: len(slack.messages) == 2, 90)


def test_the_most_urgent_goes_first(slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DELIVERY_BUDGET="0")
    slack.faults.append("500")
    service.post(body(*sample("exec-into-pod")))
    service.post(body(*sample("token-for-a-person"), binding()))
    until(lambda: len(slack.messages) == 3)
    assert [message["text"].partition(":")[0] for message in slack.messages] == [
        "Someone is bound to cluster-admin", "Command run in a container",
        "Service account token issued to a person"]


def test_slow_slack_delays_one_answer_and_no_other(
        slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DELIVERY_BUDGET="2")
    slack.fault, slack.delay = "slow", 3.0
    waits = []
    for pause in (3.0, 3.5, 0.0):
        started = time.monotonic()
        answer = service.post(body(binding())).json()
        assert (answer["alerts"], answer["delivered"], answer["queued"]) == (1, 0, 1)
        waits.append(time.monotonic() - started)
        time.sleep(pause)  # the first two are told, slowly, before the next is posted
    assert 2.0 <= waits[0] < 3.0
    assert max(waits[1:]) < 1.5
    until(lambda: len(slack.messages) == 3)


def test_an_answer_under_load_does_not_wait(slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook)
    slack.fault, slack.delay = "slow", 2.5
    started = time.monotonic()
    assert service.post(body(binding(), *ordinary(399))).json()["queued"] == 1
    assert time.monotonic() - started < 2.2
    until(lambda: service.counts().get("alerts_sent") == 1)
    assert service.post(body(binding(), *ordinary(399))).json()["queued"] == 1
    until(lambda: service.counts().get("alerts_sent") == 2)
    time.sleep(3)
    slack.fault = ""
    assert service.post(body(binding())).json()["delivered"] == 1


def test_a_budget_of_nothing_never_waits(slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook, AUDIT_DELIVERY_BUDGET="0")
    assert service.post(body(binding())).json()["queued"] == 1
    until(lambda: len(slack.messages) == 1)


def test_below_the_level_is_only_recorded(slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook, AUDIT_LEVEL="high")
    answer = service.post(body(*sample("exec-into-pod"), binding())).json()
    assert (answer["alerts"], answer["delivered"], answer["queued"]) == (2, 1, 0)
    assert service.counts()["alerts_recorded"] == 1


def test_two_rules_make_one_message(slack: Slack, start_service: StartService) -> None:
    service = start_service(SLACK_WEBHOOK_URL=slack.webhook)
    answer = service.post(body(*sample("host-namespaces-daemonset"))).json()
    assert (answer["alerts"], answer["delivered"]) == (2, 2)
    (message,) = slack.messages
    assert message["text"].startswith("Privileged container created")
    assert "also `pod-host-namespaces`" in json.dumps(message)
    found = [json.loads(line) for line in service.command("alerts", "--json").splitlines()]
    assert {alert["message"] for alert in found} == {1}
