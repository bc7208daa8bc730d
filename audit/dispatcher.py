"""The dispatcher: accept() matches and records, deliver() takes, renders, posts and records."""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Any

from audit.alert import PENDING, Alert, alerts_of, dumps, notice
from audit.event import Rejected, decode, digest
from audit.outage import Outage
from audit.outbox import STUBBORN, Batch, Destination, Outbox, Receipt, StoreError
from audit.redact import scrub_text
from audit.rules import RuleSet
from audit.sentence import duration
from audit.sinks.base import DeliveryError, Fault, Message, Sink
from audit.template import Messages, summary

log = logging.getLogger(__name__)

EXCERPT = 2**20             # bytes kept of what is refused
KEPT_REJECTS = 50           # malformed items kept of one body
WAITED = 5                  # messages that an answer waits for at most
LOAD = (400, 3.0)           # so many events in so many seconds: a full batch, more will follow
LONGEST_BACKOFF = 300.0     # seconds
LATE = 60.0                 # seconds after which a message says that it is late
REFUSED_LOGINS = 3          # in an hour, before people are told

MAYBE_REPEAT = "This may be a repeat: an earlier attempt was not answered."


class Dispatcher:
    """Both halves of an event's way, joined by the outbox.

    lowest: least urgency that is posted; budget: seconds that an answer may wait for the sender;
    retention: seconds that told alerts are kept; clock: seconds since the epoch.
    """

    def __init__(self, rules: RuleSet, outbox: Outbox, messages: Messages, sink: Sink, *,
                 lowest: int, budget: float, retention: float,
                 clock: Callable[[], float] = time.time) -> None:
        self.rules = rules
        self.outbox = outbox
        self.messages = messages
        self.sink = sink
        self.lowest = lowest
        self.budget = budget
        self.retention = retention
        self.clock = clock
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._sender: threading.Thread | None = None
        self._sending = False
        self._pruned_at = 0.0
        self._recent: deque[tuple[float, int]] = deque()
        self._refused_logins = (0, 0)  # the hour, and how many in it
        self._guard = threading.Lock()
        self._outage = Outage(self._post, budget, clock)

    # The first half: a request body becomes alerts on disk.

    def accept(self, body: bytes | bytearray, cluster: str) -> dict[str, int]:
        """Match and record every event of a body; the counts of the answer.

        Raises MalformedBody when the body is no EventList, and StoreError when something of it
        could be neither stored nor told: then nothing was acknowledged.
        """
        found: dict[tuple[str, str], Alert] = {}
        rejected: list[Rejected] = []
        received = matches = malformed = 0
        for item in decode(body, cluster):
            received += 1
            if isinstance(item, Rejected):
                malformed += 1
                if malformed <= KEPT_REJECTS:
                    rejected.append(item)
                continue
            rules = self.rules.match(item)
            if rules:
                matches += len(rules)
                for alert in alerts_of(item, rules, self.lowest):
                    found.setdefault(alert.key, alert)
        batch = Batch(list(found.values()))
        if malformed:
            self._quarantine(batch, rejected, malformed, cluster)
        loaded = self._loaded(received)
        receipt = self._put(batch) if batch else Receipt({}, True)
        new = [key for key in found if key in receipt.new]
        pending = [receipt.new[key] for key in new if found[key].state == PENDING]
        queued = 0 if receipt.told else len(pending)
        if queued and receipt.idle and not loaded:
            queued = self._wait(pending)
        return {"received": received, "alerts": len(new), "duplicates": matches - len(new),
                "silenced": 0, "delivered": len(pending) - queued, "queued": queued,
                "rejected": malformed}

    def refuse(self, body: bytes | bytearray, cluster: str, reason: str) -> None:
        """Keep the start of a body that is no EventList, and tell people once an hour."""
        excerpt = scrub_text(bytes(body[:EXCERPT]).decode("utf-8", "replace"))
        batch = Batch(counters={"refused_bodies": 1}, quarantine=[
            (digest(cluster, excerpt), cluster, reason, dumps(excerpt))])
        self._tell(batch, notice(
            "refused-body", cluster, "A request body was refused",
            f"What was posted for cluster {cluster} is no list of audit events: {reason}.",
            "If an API server sent it: it tries five times, then the batch is lost; its audit log "
            "file still has the events.", self.clock()))

    def too_large(self, cluster: str, limit: int) -> None:
        """Count a body over the limit (bytes), and tell people once an hour."""
        self._tell(Batch(counters={"too_large_bodies": 1}), notice(
            "too-large-body", cluster, "A request body was too large",
            f"A batch of cluster {cluster} is larger than AUDIT_MAX_BODY ({limit} bytes) and was "
            "refused; the API server drops it after five tries.",
            "Raise AUDIT_MAX_BODY, or lower --audit-webhook-batch-max-size of the API server.",
            self.clock()))

    def refused_login(self, address: str) -> None:
        """Count a request without good credentials; tell people once in an hour that repeats it.

        Nothing more is logged or stored: whoever has no credentials may knock as often as they
        like.
        """
        now = self.clock()
        with self._guard:
            hour, count = self._refused_logins
            count = count + 1 if hour == int(now // 3600) else 1
            self._refused_logins = int(now // 3600), count
        if count <= REFUSED_LOGINS:
            log.warning("a request from %s had no valid credentials", address)
        if count == REFUSED_LOGINS:
            self._tell(Batch(counters={"hours_with_refused_logins": 1}), notice(
                "refused-logins", "-", "Requests without valid credentials",
                f"{count} requests within this hour had no valid credentials, the last from "
                f"{address}.",
                "If it is an API server: compare the token in its webhook kubeconfig with "
                "AUDIT_TOKEN. Its events are not received until they agree.", now))

    def _quarantine(self, batch: Batch, rejected: Sequence[Rejected], malformed: int,
                    cluster: str) -> None:
        room = EXCERPT
        for item in rejected:
            excerpt = scrub_text(item.text[:room].decode("utf-8", "replace"))
            room = max(0, room - len(item.text))
            batch.quarantine.append((digest(cluster, excerpt), cluster, item.reason,
                                     dumps(excerpt)))
        batch.counters["rejected_items"] = malformed
        batch.alerts.append(notice(
            "rejected-items", cluster, "Malformed audit events",
            f"{malformed} of the items that cluster {cluster} posted are no audit events; the "
            "others were processed.", "The store keeps them in its table quarantine.",
            self.clock(), sorted({item.reason for item in rejected})))

    def _tell(self, batch: Batch, about: Alert) -> None:
        """Store a notice; a store that fails has been logged, and the answer stays the same."""
        batch.alerts.append(about)
        try:
            self._put(batch)
        except StoreError:
            pass

    def _put(self, batch: Batch) -> Receipt:
        """Store a batch and wake the sender; without a store, post straight or raise StoreError."""
        try:
            receipt = self.outbox.put(self._outage.recall(batch), self.clock())
        except StoreError as error:
            return Receipt(dict.fromkeys(self._outage.post(batch, error), 0), False, told=True)
        self._outage.over()
        self._wake.set()
        return receipt

    def _loaded(self, events: int) -> bool:
        """Whether so many events came lately that an answer must not wait for anything."""
        limit, seconds = LOAD
        now = time.monotonic()
        with self._guard:
            while self._recent and now - self._recent[0][0] > seconds:
                self._recent.popleft()
            self._recent.append((now, events))
            return sum(count for _, count in self._recent) >= limit

    def _wait(self, pending: list[int]) -> int:
        """Wait until these alerts are told, as long as that may take; how many are not.

        Not when the destination failed, or was slower than the budget, the last time.
        """
        deadline = time.monotonic() + self.budget
        left = len(pending)
        try:
            while left and len(pending) <= WAITED and time.monotonic() < deadline:
                state = self.outbox.destination(self.sink.name)
                if state.failures or state.seconds > self.budget:
                    break
                time.sleep(0.004)
                left = self.outbox.pending(pending)
        except StoreError:
            pass  # they are stored, and it is only not known whether they are told already
        return left

    # The second half: alerts on disk become messages.

    def start(self) -> None:
        """Start the sender's thread; in one process at a time it sends, in others it waits."""
        self._sender = threading.Thread(target=self._send, name="sender", daemon=True)
        self._sender.start()

    def stop(self) -> None:
        """Finish the message in hand, and send no more."""
        self._stopping.set()
        self._wake.set()
        if self._sender is not None and self._sending:
            self._sender.join(timeout=20)

    def _send(self) -> None:
        said = ""
        while not self._stopping.is_set():
            try:
                with closing(self.outbox.database.lock()) as lock:
                    log.info("this process sends to %s", self.sink.name)
                    self._sending = True
                    self._send_while_locked(lock)
            except StoreError as error:
                if str(error) != said:
                    log.error("nothing is sent until it can be recorded: %s", error)
                said = str(error)
                self._stopping.wait(1.0)
            finally:
                self._sending = False

    def _send_while_locked(self, lock: Any) -> None:
        while not self._stopping.is_set():
            self._wake.clear()
            try:
                self.outbox.database.check(lock)
                pause = self.deliver()
            except StoreError:
                raise
            except Exception:  # whatever it was, the next message must get its turn
                log.exception("the sender failed and goes on")
                pause = 1.0
            self._pause(pause)

    def _pause(self, seconds: float) -> None:
        """Wait so long, or until something was stored by this process or by another."""
        database, deadline = self.outbox.database, time.monotonic() + seconds
        while not self._stopping.is_set():
            left = deadline - time.monotonic()
            if left <= 0 or self._wake.wait(min(left, database.poll)) or database.changed():
                return

    def deliver(self) -> float:
        """Send the most urgent message that is due; seconds until there may be another."""
        now = self.clock()
        state = self.outbox.destination(self.sink.name)
        if state.retry_at > now:
            self._stopping.wait(min(state.retry_at - now, 1.0))
            return 0.0
        alerts = self.outbox.due(now)
        if not alerts:
            self._prune(now)
            due_at = self.outbox.next_due()
            return 60.0 if due_at is None else max(0.01, min(60.0, due_at - now))
        self._deliver(alerts, state)
        return 0.0

    def _deliver(self, alerts: list[Alert], state: Destination) -> None:
        started = self.clock()
        late = started - alerts[0].stored_at
        try:
            reference = self._post(alerts, f"Told {duration(late)} late." if late > LATE else "")
        except DeliveryError as error:
            if error.fault is Fault.PERMANENT:
                reason = str(error)
                log.error("%s; %d alerts are set aside: see `kube-audit-slack outbox list`",
                          reason, len(alerts))
                self._record(lambda: self.outbox.set_aside(alerts, reason, self.sink.name))
            else:
                self._put_off(alerts, state, error)
            return
        seconds = self.clock() - started
        self._record(lambda: self.outbox.sent(
            alerts, self.sink.name, reference, summary(alerts), seconds, self.clock()))

    def _post(self, alerts: Sequence[Alert], note: str) -> str:
        """Post the message of these alerts, as plain text when the sink will never take it."""
        message = self._render(alerts, note)
        try:
            return self.sink.post(message)
        except DeliveryError as error:
            if error.fault is not Fault.PERMANENT:
                raise
            log.error("%s; the alert is tried as plain text", error)
            return self.sink.post({"text": message["text"]})

    def _render(self, alerts: Sequence[Alert], note: str) -> Message:
        try:
            return self.messages.render(alerts, note)
        except Exception:  # an alert that cannot be shown must be told, and hold up no other
            log.exception("the message of alert %s could not be made", alerts[0].id)
            return {"text": f"Alert {alerts[0].id} of rule {alerts[0].rule} could not be shown; "
                            "`kube-audit-slack alerts` lists it, and the log says why."}

    def _put_off(self, alerts: list[Alert], state: Destination, error: DeliveryError) -> None:
        """Plan the next attempt after a failure that is not the message's alone."""
        now, failures = self.clock(), state.failures + 1
        # Slack had the message in hand when it failed, so the message may be the reason.
        counts = error.ambiguous or error.reason not in ("ratelimited", "connection",
                                                         "connect_timeout")
        if error.fault is Fault.CONFIGURATION:
            pause = min(LONGEST_BACKOFF, 15.0 * 2 ** min(failures, 5)) * random.uniform(0.8, 1.0)
            counts = False
            log.error("NOTHING IS DELIVERED to %s: %s; the alerts are kept, next attempt in %.0f s",
                      self.sink.name, error, pause)
        elif error.retry_after is not None:
            pause = error.retry_after
            log.warning("%s; %s waits %.0f s", error, self.sink.name, pause)
        else:
            pause = max(0.1, random.uniform(0.0, min(LONGEST_BACKOFF, 2.0 ** min(failures, 9))))
            log.warning("%s; next attempt at %s in %.1f s", error, self.sink.name, pause)
        due_at = retry_at = now + pause
        if counts and alerts[0].attempts >= STUBBORN:
            # Others pass: the destination is only held up for a second, this message for longer.
            due_at = now + max(pause, min(60.0, 2.0 ** min(alerts[0].attempts, 6)))
            retry_at = now + min(pause, 1.0)
        after = Destination(failures, retry_at, error.fault.value, str(error), state.seconds)
        self._record(lambda: self.outbox.retry(
            alerts, due_at, str(error), MAYBE_REPEAT if error.ambiguous else "", self.sink.name,
            after, counts=counts))

    def _record(self, write: Callable[[], Any]) -> None:
        """Record what became of a message before anything else is sent, however long it takes.

        A message that was posted and not recorded would be posted again.
        """
        while True:
            try:
                write()
                return
            except StoreError as error:
                log.error("what was delivered cannot be recorded, nothing else is sent: %s", error)
                if self._stopping.wait(1.0):
                    return

    def _prune(self, now: float) -> None:
        if now - self._pruned_at > 3600:
            if not self.outbox.prune(now - self.retention):
                self._pruned_at = now
