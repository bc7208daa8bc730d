"""The outbox: what was acknowledged, and what of it has been told.

One table joins the two halves of the service: put() before the answer, due() and sent() after.
"""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from audit.alert import SET_ASIDE, Alert, dumps
from audit.database import Database, StoreError

__all__ = ["Batch", "Destination", "Outbox", "Receipt", "StoreError"]

KEPT_IN_QUARANTINE = 100
PRUNED = 1000
STUBBORN = 3

_ALERT = ("SELECT a.id, a.request, a.rule, a.urgency, a.about, a.state, a.note, a.attempts, "
          "a.stored_at, a.message, a.error, e.cluster, e.document "
          "FROM alerts a JOIN events e ON e.request = a.request ")


@dataclass
class Batch:
    """What one request body leaves to be stored, all of it or nothing.

    quarantine: (digest, cluster, reason, excerpt); counters: what to add to each.
    """

    alerts: list[Alert] = field(default_factory=list)
    quarantine: list[tuple[str, str, str, str]] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.alerts or self.quarantine or self.counters)


@dataclass(frozen=True)
class Receipt:
    """What became of a batch.

    new: row of each alert that was not known before, by its key; idle: whether nothing else was
    waiting to be told; told: whether the new ones were posted without being stored.
    """

    new: dict[tuple[str, str], int]
    idle: bool
    told: bool = False


@dataclass(frozen=True)
class Destination:
    """How a destination has been doing.

    failures: in a row; retry_at: seconds since the epoch; seconds: how long its last answer took.
    """

    failures: int = 0
    retry_at: float = 0.0
    reason: str = ""
    error: str = ""
    seconds: float = 0.0


class Outbox:
    """Alerts, messages and counters on disk.

    All methods raise StoreError; a method that writes has then kept nothing.
    """

    def __init__(self, database: Database) -> None:
        self.database = database
        # The database lets one write at a time through: threads line up here, where they are
        # woken at once, and only processes meet the database's own waiting, which sleeps.
        self._turn = threading.Lock()

    def put(self, batch: Batch, now: float) -> Receipt:
        """Store a batch in one transaction. now: seconds since the epoch."""
        known: set[str] = set()
        new: dict[tuple[str, str], int] = {}
        with self._write() as write:
            waiting = write.execute(
                "SELECT 1 FROM alerts WHERE state = 'pending' LIMIT 1").fetchone()
            for alert in batch.alerts:
                if alert.request not in known:
                    known.add(alert.request)
                    write.execute(
                        "INSERT INTO events (request, cluster, document, stored_at) "
                        "VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                        alert.request, alert.cluster, alert.document, now)
                row = write.execute(
                    "INSERT INTO alerts (request, rule, urgency, about, state, due_at, stored_at) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id",
                    alert.request, alert.rule, alert.urgency, dumps(alert.about), alert.state,
                    now, now).fetchone()
                if row is not None:
                    new[alert.key] = row[0]
            for entry in batch.quarantine:
                write.execute(
                    "INSERT INTO quarantine (digest, cluster, reason, excerpt, stored_at) "
                    "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", *entry, now)
            if batch.quarantine:
                write.execute(
                    "DELETE FROM quarantine WHERE digest NOT IN (SELECT digest FROM quarantine "
                    "ORDER BY stored_at DESC LIMIT ?)", KEPT_IN_QUARANTINE)
            self._count(write, batch.counters)
        return Receipt(new, waiting is None)

    def due(self, now: float) -> list[Alert]:
        """The alerts of the next message: those of the most urgent, then oldest, due request."""
        first = self.database.read(
            "SELECT request FROM alerts WHERE state = 'pending' AND due_at <= ? "
            f"ORDER BY (attempts >= {STUBBORN}), urgency DESC, id LIMIT 1", now)
        if not first:
            return []
        return self._alerts("WHERE a.request = ? AND a.state = 'pending' "
                            "ORDER BY a.urgency DESC, a.rule", first[0][0])

    def next_due(self) -> float | None:
        """When the next pending alert is due, in seconds since the epoch; None without any."""
        (earliest,), = self.database.read(
            "SELECT min(due_at) FROM alerts WHERE state = 'pending'")
        return earliest if earliest is None else float(earliest)

    def pending(self, ids: Sequence[int]) -> int:
        """How many of these alerts still wait to be told."""
        marks = ", ".join("?" * len(ids))
        (count,), = self.database.read(
            f"SELECT count(*) FROM alerts WHERE state = 'pending' AND id IN ({marks})", *ids)
        return int(count)

    def sent(self, alerts: Sequence[Alert], name: str, reference: str, summary: str,
             seconds: float, now: float) -> int:
        """Record that one message told these alerts; the number of the message.

        name: the destination; reference: Slack's own name of the message; seconds: how long the
        destination took.
        """
        with self._write() as write:
            (message,) = write.execute(
                "INSERT INTO messages (destination, reference, summary, sent_at) "
                "VALUES (?, ?, ?, ?) RETURNING id", name, reference,
                dumps(summary), now).fetchone()
            for alert in alerts:
                write.execute("UPDATE alerts SET state = 'sent', message = ?, error = '' "
                              "WHERE id = ?", message, alert.id)
            self._destination(write, name, Destination(seconds=seconds))
        return int(message)

    def retry(self, alerts: Sequence[Alert], due_at: float, error: str, note: str,
              name: str, destination: Destination, *, counts: bool) -> None:
        """Put a failed delivery off.

        due_at: seconds since the epoch; error: what failed; note: what the next message must say;
        counts: whether the message itself may be to blame, so that it must let others pass.
        """
        with self._write() as write:
            for alert in alerts:
                write.execute(
                    "UPDATE alerts SET due_at = ?, attempts = attempts + ?, error = ?, note = ? "
                    "WHERE id = ?", due_at, int(counts), dumps(error), note or alert.note, alert.id)
            self._destination(write, name, destination)

    def set_aside(self, alerts: Sequence[Alert], error: str, name: str) -> None:
        """Stop trying: the destination will never take these; an operator may requeue them."""
        with self._write() as write:
            for alert in alerts:
                write.execute("UPDATE alerts SET state = ?, error = ? WHERE id = ?",
                              SET_ASIDE, dumps(error), alert.id)
            self._destination(write, name, Destination())
            self._count(write, {"set_aside": len(alerts)})

    def requeue(self, ids: Sequence[int] | None, now: float) -> int:
        """Make set-aside alerts pending again (all of them for None); how many there were."""
        chosen = "" if ids is None else f"AND id IN ({', '.join('?' * len(ids))})"
        with self._write() as write:
            return int(write.execute(
                "UPDATE alerts SET state = 'pending', due_at = ?, attempts = 0 "
                f"WHERE state = 'set-aside' {chosen}", now, *(ids or ())).rowcount)

    def destination(self, name: str) -> Destination:
        """How this destination has been doing; well when it was never used."""
        rows = self.database.read(
            "SELECT failures, retry_at, reason, error, seconds FROM destinations "
            "WHERE name = ?", name)
        if not rows:
            return Destination()
        failures, retry_at, reason, error, seconds = rows[0]
        return Destination(failures, retry_at, reason, json.loads(error), seconds)

    def alerts(self, states: Sequence[str] = ()) -> Iterator[Alert]:
        """All alerts, or those in these states, oldest first, read in pieces."""
        last = 0
        chosen = f"AND a.state IN ({', '.join('?' * len(states))})" if states else ""
        while True:
            page = self._alerts(f"WHERE a.id > ? {chosen} ORDER BY a.id LIMIT 500", last, *states)
            yield from page
            if not page:
                return
            last = page[-1].id

    def counts(self) -> dict[str, int]:
        """Alerts by state, and the counters."""
        found = {f"alerts_{state.replace('-', '_')}": int(count) for state, count in
                 self.database.read("SELECT state, count(*) FROM alerts WHERE state <> 'pending' "
                                    "GROUP BY state UNION ALL SELECT 'pending', count(*) "
                                    "FROM alerts WHERE state = 'pending'")}
        found.update((name, int(value)) for name, value in
                     self.database.read("SELECT name, value FROM counters"))
        return found

    def probe(self) -> None:
        """Commit something, to know that commits succeed."""
        with self._write() as write:
            self._count(write, {"probes": 1})

    def prune(self, before: float) -> bool:
        """Forget what is older: told and recorded alerts, their events and messages, quarantine.

        before: seconds since the epoch. What is pending or set aside stays. Whether there may be
        more: a piece at a time, for requests wait while it is deleted.
        """
        with self._write() as write:
            alerts = write.execute(
                "DELETE FROM alerts WHERE id IN (SELECT id FROM alerts WHERE stored_at < ? "
                "AND state IN ('sent', 'recorded') LIMIT ?)", before, PRUNED).rowcount
            events = write.execute(
                "DELETE FROM events WHERE request IN (SELECT request FROM events WHERE "
                "stored_at < ? AND NOT EXISTS (SELECT 1 FROM alerts a WHERE a.request = "
                "events.request) LIMIT ?)", before, PRUNED).rowcount
            write.execute("DELETE FROM messages WHERE sent_at < ?", before)
            write.execute("DELETE FROM quarantine WHERE stored_at < ?", before)
        return bool(alerts == PRUNED or events == PRUNED)

    @contextmanager
    def _write(self) -> Iterator[Any]:
        with self._turn, self.database.transaction() as write:
            yield write

    def _alerts(self, where: str, *parameters: Any) -> list[Alert]:
        return [Alert(request, cluster, rule, urgency, json.loads(about), document,
                      state, note, attempts, id, stored_at, message, json.loads(error or '""'))
                for (id, request, rule, urgency, about, state, note, attempts, stored_at, message,
                     error, cluster, document) in self.database.read(_ALERT + where, *parameters)]

    def _destination(self, write: Any, name: str, state: Destination) -> None:
        write.execute(
            "INSERT INTO destinations (name, failures, retry_at, reason, error, seconds) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO UPDATE SET "
            "failures = excluded.failures, retry_at = excluded.retry_at, "
            "reason = excluded.reason, error = excluded.error, seconds = excluded.seconds",
            name, state.failures, state.retry_at, state.reason, dumps(state.error), state.seconds)

    def _count(self, write: Any, counters: dict[str, int]) -> None:
        for name, amount in counters.items():
            write.execute("INSERT INTO counters (name, value) VALUES (?, ?) ON CONFLICT (name) "
                          "DO UPDATE SET value = counters.value + excluded.value", name, amount)
