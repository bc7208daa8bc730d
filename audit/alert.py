"""What is told: an Alert is one request and one rule; alerts of one request make one message."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from audit.event import Event, digest
from audit.redact import redact
from audit.rules import LEVELS, Rule

PENDING, SENT, SET_ASIDE, RECORDED = "pending", "sent", "set-aside", "recorded"


@dataclass(frozen=True)
class Alert:
    """One request that matched one rule, or one notice of the service itself.

    request: the identity of the request; cluster: its cluster; rule: the rule's name; urgency:
    index of its level in LEVELS; about: title, why, next, tags, references and covers of the
    rule; document: the redacted event, or {"notice": sentence, ...}, as JSON, for a large batch
    holds many; state: as in the store; note: what its message must say of earlier attempts; id:
    row in the store; stored_at: seconds since the epoch; message: which one told it.
    """

    request: str
    cluster: str
    rule: str
    urgency: int
    about: dict[str, Any]
    document: str
    state: str = PENDING
    note: str = ""
    attempts: int = 0
    id: int = 0
    stored_at: float = 0.0
    message: int | None = None
    error: str = ""

    @property
    def level(self) -> str:
        """The level in words."""
        return LEVELS[self.urgency]

    @property
    def key(self) -> tuple[str, str]:
        """What makes an alert one: the request and the rule."""
        return self.request, self.rule

    @cached_property
    def facts(self) -> dict[str, Any]:
        """The document, decoded."""
        facts: dict[str, Any] = json.loads(self.document)
        return facts

    @property
    def event(self) -> Event | None:
        """The redacted event; None for a notice."""
        if "notice" in self.facts:
            return None
        return Event(self.facts, self.cluster, tuple(self.about.get("undecoded", ())))


def alerts_of(event: Event, rules: list[Rule], lowest: int) -> list[Alert]:
    """The alerts of an event that matched these rules, redacted and ready to be stored.

    lowest: the least urgency that is posted; what lies below is only recorded.
    """
    request, document = event.request, dumps(redact(event))
    undecoded = {"undecoded": event.undecoded} if event.undecoded else {}
    return [Alert(request, event.cluster, rule.name, rule.urgency, rule.about | undecoded,
                  document, PENDING if rule.urgency >= lowest else RECORDED) for rule in rules]


def notice(name: str, cluster: str, title: str, sentence: str, what_next: str, now: float,
           reasons: Sequence[str] = ()) -> Alert:
    """A message of the service about itself, at most one an hour for each name and cluster.

    what_next: what an operator can do; now: seconds since the epoch; reasons: details, one a line.
    """
    about = {"title": title, "why": "", "next": [what_next], "tags": [], "references": [],
             "covers": []}
    return Alert(digest("notice", name, cluster, int(now // 3600)), cluster, name,
                 LEVELS.index("medium"), about,
                 dumps({"notice": sentence, "reasons": list(reasons)}), stored_at=now)


def dumps(value: Any) -> str:
    """ASCII JSON, which both databases take whatever an event holds."""
    return json.dumps(value, separators=(",", ":"))
