"""While the store cannot be written: alerts are posted straight from the request."""

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from dataclasses import replace

from audit.alert import PENDING, SENT, Alert, notice
from audit.outbox import Batch, StoreError
from audit.sentence import duration
from audit.sinks.base import DeliveryError

log = logging.getLogger(__name__)

REMEMBERED = 10_000  # alerts told without the store, lest their batch comes again


class Outage:
    """What is done while the store cannot be written.

    Alerts are posted straight, by one thread and in the order of their urgency; what was posted
    is remembered, for the API server sends the rest of its batch again.

    post: posts the message of some alerts, with a note; budget: seconds that an answer may wait;
    clock: seconds since the epoch.
    """

    def __init__(self, post: Callable[[Sequence[Alert], str], str], budget: float,
                 clock: Callable[[], float]) -> None:
        self._post = post
        self._budget = budget
        self._clock = clock
        self._told: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._poster: ThreadPoolExecutor | None = None
        self._posting: Future[None] | None = None
        self._since: float | None = None
        self._refused = self._posted = 0

    def recall(self, batch: Batch) -> Batch:
        """The batch, in which what was told without the store is marked as sent.

        After an outage it has a notice of it.
        """
        alerts = [replace(alert, state=SENT) if alert.key in self._told else alert
                  for alert in batch.alerts] if self._told else list(batch.alerts)
        if self._since is not None:
            now = self._clock()
            alerts.append(notice(
                "store-outage", "-", "The store could not be written",
                f"For {duration(now - self._since)} nothing could be stored: {self._posted} "
                f"alerts were posted at once instead, and {self._refused} batches were answered "
                "503 for the API server to send again.",
                "Look at the free space and the health of the store's disk.", now))
        return replace(batch, alerts=alerts)

    def over(self) -> None:
        """The store could be written."""
        self._since, self._refused, self._posted = None, 0, 0

    def post(self, batch: Batch, error: StoreError) -> list[tuple[str, str]]:
        """Post what the store did not take; the keys of what had not been told before.

        Raises the StoreError unless all of it was told.
        """
        new = [alert.key for alert in batch.alerts if alert.key not in self._told]
        if self._since is None:
            self._since = self._clock()
            log.error("%s. Alerts are posted without being stored; what cannot be is answered "
                      "503, and the API server sends it again, five times in all", error)
        if self._posting is None or self._posting.done():
            self._poster = self._poster or ThreadPoolExecutor(1, "straight")
            self._posting = self._poster.submit(self._post_all, batch.alerts)
            try:
                self._posting.result(timeout=self._budget)
            except TimeoutError:
                pass
        if batch.quarantine or not all(alert.key in self._told for alert in batch.alerts):
            self._refused += 1
            raise error
        return new

    def _post_all(self, alerts: Sequence[Alert]) -> None:
        groups: dict[str, list[Alert]] = {}
        for alert in sorted(alerts, key=lambda alert: -alert.urgency):
            if alert.state == PENDING and alert.key not in self._told:
                groups.setdefault(alert.request, []).append(alert)
        for group in groups.values():
            try:
                self._post(group, "The store cannot be written: this alert is kept nowhere else.")
            except DeliveryError as error:
                log.error("an alert could be neither stored nor posted: %s", error)
                return
            self._posted += len(group)
            self._told.update((alert.key, None) for alert in group)
            while len(self._told) > REMEMBERED:
                self._told.popitem(last=False)
