"""The sender on a store of its own: what no socket can show."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from audit import rules
from audit.alert import alerts_of
from audit.database import SQLite
from audit.dispatcher import Dispatcher
from audit.event import Event
from audit.outbox import Batch, Outbox
from audit.sinks.base import DeliveryError, Fault, Message
from audit.template import Messages
from tests.events import binding

RULES = rules.load()


class Recorder:
    """A sink that keeps what it is given, and fails as it is told."""

    name = "recorder"

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.failures: list[DeliveryError] = []

    def post(self, message: Message) -> str:
        if self.failures:
            raise self.failures.pop(0)
        self.messages.append(message)
        return "ref"


class Clock:
    """A clock that stands until it is moved. now: seconds since the epoch."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dispatcher(tmp_path: Path, clock: Clock) -> Iterator[Dispatcher]:
    outbox = Outbox(SQLite(tmp_path / "store.db"))
    yield Dispatcher(RULES, outbox, Messages(), Recorder(), lowest=2, budget=0.0,
                     retention=86400.0, clock=clock)
    outbox.database.close()


def put(dispatcher: Dispatcher, clock: Clock, count: int = 1) -> None:
    for _ in range(count):
        event = Event(binding(), "prod")
        dispatcher.outbox.put(Batch(alerts_of(event, RULES.match(event), 2)), clock())


def sink(dispatcher: Dispatcher) -> Recorder:
    assert isinstance(dispatcher.sink, Recorder)
    return dispatcher.sink


def test_a_message_that_cannot_be_made_is_told_and_holds_up_no_other(
        dispatcher: Dispatcher, clock: Clock) -> None:
    event = Event(binding(), "prod")
    (alert,) = alerts_of(event, RULES.match(event), 2)
    broken = {name: value for name, value in alert.about.items() if name != "tags"}
    dispatcher.outbox.put(Batch([type(alert)(
        alert.request, "prod", alert.rule, alert.urgency, broken, alert.document)]), clock())
    put(dispatcher, clock)
    dispatcher.deliver()
    dispatcher.deliver()
    first, second = sink(dispatcher).messages
    assert first == {"text": "Alert 1 of rule cluster-admin-binding-created could not be shown; "
                             "`kube-audit-slack alerts` lists it, and the log says why."}
    assert "blocks" in second


def test_back_off_grows_to_five_minutes_and_ends_with_a_success(
        dispatcher: Dispatcher, clock: Clock) -> None:
    put(dispatcher, clock)
    longest = 0.0
    for _ in range(30):
        sink(dispatcher).failures = [DeliveryError(Fault.TRANSIENT, "connection", "no")]
        dispatcher.deliver()
        state = dispatcher.outbox.destination("recorder")
        assert 0.09 < state.retry_at - clock.now < 300.1
        longest = max(longest, state.retry_at - clock.now)
        clock.now = state.retry_at
    assert longest > 60
    dispatcher.deliver()
    assert dispatcher.outbox.destination("recorder").failures == 0
    assert len(sink(dispatcher).messages) == 1


def test_a_message_that_always_fails_lets_others_pass(
        dispatcher: Dispatcher, clock: Clock) -> None:
    put(dispatcher, clock)
    for _ in range(6):
        sink(dispatcher).failures = [DeliveryError(Fault.TRANSIENT, "rollup_error", "500")]
        dispatcher.deliver()
        assert sink(dispatcher).failures == []
        clock.now = dispatcher.outbox.next_due() or 0.0
    clock.now = dispatcher.outbox.destination("recorder").retry_at
    assert sink(dispatcher).messages == []
    put(dispatcher, clock, 3)
    for _ in range(3):
        dispatcher.deliver()
    assert len(sink(dispatcher).messages) == 3
    clock.now += 61
    dispatcher.deliver()
    assert len(sink(dispatcher).messages) == 4


def test_what_is_old_and_told_is_forgotten(dispatcher: Dispatcher, clock: Clock) -> None:
    put(dispatcher, clock, 2)
    dispatcher.deliver()
    clock.now += 2 * 86400
    sink(dispatcher).failures = [DeliveryError(Fault.PERMANENT, "x", "no")] * 2
    dispatcher.deliver()
    dispatcher.deliver()
    assert dispatcher.outbox.counts() == {
        "alerts_set_aside": 1, "alerts_pending": 0, "set_aside": 1}
    assert len(dispatcher.outbox.database.read("SELECT * FROM events")) == 1
    assert dispatcher.outbox.database.read("SELECT * FROM messages") == []


def test_a_backlog_is_read_by_its_index(dispatcher: Dispatcher) -> None:
    plan = dispatcher.outbox.database.read(
        "EXPLAIN QUERY PLAN SELECT request FROM alerts WHERE state = 'pending' AND due_at <= ? "
        "ORDER BY (attempts >= 3), urgency DESC, id LIMIT 1", 0)
    assert [row[3] for row in plan] == ["SCAN alerts USING INDEX alerts_pending"]
