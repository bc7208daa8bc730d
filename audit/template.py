"""Message templates: JSON documents whose strings are Jinja templates become Slack messages.

The document is parsed before anything is filled in, so no value can change its structure; every
value is shown as code, with Slack's control characters escaped, unless the template says that it
is prose of our own; and a text that comes out empty takes its block or field with it.
"""

import json
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from audit.alert import Alert
from audit.event import Event
from audit.fields import code as status_code
from audit.fields import member, outcome, source_ip, text
from audit.rules import LEVELS
from audit.sentence import Parts, Value, actor, commands, plain, sentence, target

SHIPPED = Path(__file__).parent / "templates" / "slack"
LOOKS = {  # level → emoji, colour of the bar
    "critical": (":rotating_light:", "#8b0000"), "high": (":red_circle:", "#d92d20"),
    "medium": (":large_orange_circle:", "#f79009"),
    "low": (":large_yellow_circle:", "#eac54f"), "informational": (":white_circle:", "#98a2b3"),
}
LONGEST = 200
ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
CONTENT = {"text", "fields", "elements", "blocks"}


class Mrkdwn(str):
    """Text that is ready for Slack: everything in it that is not ours has been escaped."""


def clean(value: Any, longest: int = LONGEST) -> str:
    """A value on one line, without control and direction characters, cut to a length."""
    raw = str(value)
    cut = raw if len(raw) <= longest else f"{raw[:longest]}…"
    return "".join(character if character.isprintable() else " " for character in cut).strip()


def escape(text: str, longest: int = 1000) -> str:
    """Text with Slack's three control characters escaped, cut to a length.

    Source: Slack, "Formatting text for app surfaces", escaping text.
    """
    escaped = ""
    for character in text:
        escaped += ESCAPES.get(character, character)
        if len(escaped) > longest:
            return f"{escaped[:escaped.rindex(ESCAPES.get(character, character))]}…"
    return escaped


def prose(value: Any) -> Mrkdwn:
    """Our own words."""
    return Mrkdwn(escape(clean(value, 1000)))


def code(value: Any, longest: int = LONGEST) -> Mrkdwn:
    """A value as a code span, in which nothing is a mention, a link or formatting."""
    escaped = escape(clean(value, longest).replace("`", "ˋ"), longest)
    return Mrkdwn(f"`{escaped}`" if escaped else "")


def moment(seconds: float) -> Mrkdwn:
    """A time in the reader's own zone, with UTC for who cannot show that.

    seconds: since the epoch. Source: Slack, "Formatting text", date formatting.
    """
    written = datetime.fromtimestamp(seconds, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
    return Mrkdwn(f"<!date^{int(seconds)}^{{date_short_pretty}} {{time_secs}}|{written}>")


class Messages:
    """The message templates, compiled once."""

    def __init__(self, directory: Path = SHIPPED) -> None:
        self._environment = Environment(undefined=StrictUndefined, finalize=_show,
                                        keep_trailing_newline=True)
        self._environment.filters.update(prose=prose, code=code)
        self._documents = {name: self._compile(json.loads(
            (directory / f"{name}.json").read_text("utf-8"))) for name in ("alert", "notice")}

    def render(self, alerts: Sequence[Alert], note: str = "") -> dict[str, Any]:
        """The message for the alerts of one request, the most urgent first.

        note: one more sentence about this delivery.
        """
        lead = alerts[0]
        event = lead.event
        emoji, color = LOOKS[LEVELS[lead.urgency]]
        values = {
            "title": lead.about["title"] + _unsuccessful(event), "why": lead.about["why"],
            "level": lead.level, "emoji": Mrkdwn(emoji), "color": Mrkdwn(color),
            "rule": lead.rule, "cluster": lead.cluster,
            "note": " ".join(filter(None, (lead.note, note))),
            "also": _joined(alert.rule for alert in alerts[1:4]),
        }
        if event is None:
            values |= {"sentence": prose(lead.facts["notice"]), "next": lead.about["next"],
                       "reasons": lead.facts["reasons"][:5],
                       "when": moment(lead.stored_at)}
        else:
            values |= _facts(event, lead)
        message: dict[str, Any] = _filled(
            self._documents["notice" if event is None else "alert"], values)
        return message

    def _compile(self, node: Any) -> Any:
        if isinstance(node, dict):
            return {name: self._compile(child) for name, child in node.items()}
        if isinstance(node, list):
            return [self._compile(child) for child in node]
        if isinstance(node, str) and ("{{" in node or "{%" in node):
            return self._environment.from_string(node)
        return node


def _facts(event: Event, lead: Alert) -> dict[str, Any]:
    """What the template may show of an event."""
    raw = event.raw
    groups = [group for group in raw["user"].get("groups") or () if isinstance(group, str)
              and group != "system:authenticated"]
    status, result = status_code(event), outcome(event)
    reason = (text(member(raw, "annotations", "authorization.k8s.io/reason"))
              if result == "allowed" else text(member(raw, "responseStatus", "message")))
    technique = next((tag.removeprefix("attack.").upper() for tag in lead.about["tags"]
                      if tag.startswith("attack.t")), "")
    link = f"https://attack.mitre.org/techniques/{technique.replace('.', '/')}/"
    return {
        "sentence": marked(sentence(event)), "when": moment(_received(raw, lead.stored_at)),
        "who": marked(actor(event)), "groups": _joined(groups[:3]), "source": source_ip(event),
        "agent": text(raw.get("userAgent")), "target": marked(target(event)),
        "result": result + (f" ({status})" if status is not None else ""), "reason": reason,
        "next": commands(event, lead.about["next"]), "audit_id": raw["auditID"],
        "reference": Mrkdwn(f"<{link}|ATT&amp;CK {technique}>" if technique else ""),
        "undecoded": ", ".join(event.undecoded),
    }


def _unsuccessful(event: Event | None) -> str:
    """What a title must add when nothing came of the request."""
    result = outcome(event) if event else "allowed"
    return {"denied": " (denied)", "failed": " (request failed)"}.get(result, "")


def marked(parts: Parts) -> Mrkdwn:
    """A sentence for Slack: its values as code, its words as they are."""
    return Mrkdwn("".join(code(part) or "` `" if isinstance(part, Value) else escape(part)
                          for part in parts))


def summary(alerts: Sequence[Alert]) -> str:
    """The alert's sentence as plain text, for lists, logs and other programs."""
    event = alerts[0].event
    return plain(sentence(event)) if event else str(alerts[0].facts["notice"])


def _received(raw: dict[str, Any], otherwise: float) -> float:
    try:
        return datetime.fromisoformat(raw["requestReceivedTimestamp"]).timestamp()
    except (ValueError, OverflowError):
        return otherwise


def _joined(values: Any) -> Mrkdwn:
    return Mrkdwn(" ".join(code(value) for value in values))


def _show(value: Any) -> Any:
    """What a template's expression prints: values of events as code, unless they are ready."""
    return value if isinstance(value, (Mrkdwn, StrictUndefined)) else code(value)


def _filled(node: Any, values: dict[str, Any]) -> Any:
    """The document with its texts filled in, without the parts whose texts came out empty."""
    if isinstance(node, Template):
        return node.render(values) or None
    if isinstance(node, list):
        return [child for child in (_filled(each, values) for each in node)
                if child is not None] or None
    if isinstance(node, dict):
        filled = {name: _filled(child, values) for name, child in node.items()}
        kept = {name: child for name, child in filled.items() if child is not None}
        content = CONTENT & node.keys()
        return kept if not content or content & kept.keys() else None
    return node
