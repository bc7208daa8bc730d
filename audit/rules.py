"""Rules: TOML files in Sigma's form are loaded, checked, indexed, and matched against events."""

import logging
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from audit.detection import DetectionError, Predicate, compile_detection
from audit.event import Event
from audit.fields import FIELDS, Field

log = logging.getLogger(__name__)

LEVELS = ("informational", "low", "medium", "high", "critical")
SHIPPED = Path(__file__).parent / "detections"
# Stages that have an answer. RequestReceived has none yet, and says nothing that the others of
# the same request do not say with their outcome.
UNANSWERED = "RequestReceived"
# The fields that candidates are looked up by, the most telling first.
INDEXED = ("resource", "user", "decoded")

_TEXTS = ("name", "title", "level", "id", "status", "description", "author", "why", "date",
          "modified", "license")
_LISTS = ("covers", "tags", "references", "next", "falsepositives")


class RuleError(ValueError):
    """Rule files that cannot be used; the text has one line for each mistake."""


@dataclass(frozen=True)
class Rule:
    """One detection with what a reader of its alert needs to know.

    level: one of LEVELS; covers: the criteria that it answers; why: one sentence for somebody
    who is no security expert; next: commands to run, with {field} for the event's own values.
    """

    name: str
    title: str
    level: str
    predicate: Predicate = field(repr=False, compare=False)
    covers: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    references: tuple[str, ...] = ()
    why: str = ""
    next: tuple[str, ...] = ()
    enabled: bool = True

    @property
    def urgency(self) -> int:
        """The level as a number, greater is more urgent."""
        return LEVELS.index(self.level)

    @cached_property
    def about(self) -> dict[str, Any]:
        """What an alert keeps of its rule, so that it reads the same after the rule changed."""
        return {"title": self.title, "why": self.why, "next": self.next, "tags": self.tags,
                "references": self.references, "covers": self.covers}

    def holds(self, event: Event) -> bool:
        """Whether the event matches; a rule that fails on an event is logged and does not."""
        try:
            return self.predicate.test(event)
        except Exception:  # one rule must not stop the others, or the batch
            log.exception("rule %s failed on an event and was passed over", self.name)
            return False


class RuleSet:
    """The rules that are on, found by what an event must have to match them."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self.rules = tuple(sorted(rules, key=lambda rule: (-rule.urgency, rule.name)))
        self._tables: dict[str, tuple[Field, dict[str, list[Rule]]]] = {}
        self._others: list[Rule] = []
        for rule in self.rules:
            if not rule.enabled:
                continue
            anchor = next((name for name in INDEXED if name in rule.predicate.needs), None)
            if anchor is None:
                self._others.append(rule)
                continue
            _, table = self._tables.setdefault(anchor, (FIELDS[anchor], {}))
            for text in rule.predicate.needs[anchor]:
                table.setdefault(text, []).append(rule)

    def all_enabled(self) -> "RuleSet":
        """The same rules, those that are off by default switched on."""
        return RuleSet(replace(rule, enabled=True) for rule in self.rules)

    def match(self, event: Event) -> list[Rule]:
        """The rules that this event matches, the most urgent first."""
        if event.raw["stage"] == UNANSWERED:
            return []
        matched = [rule for rule in self._others if rule.holds(event)]
        for read, table in self._tables.values():
            candidates = table.get(read(event).lower())
            if candidates:
                matched += [rule for rule in candidates if rule.holds(event)]
        if len(matched) > 1:
            matched.sort(key=lambda rule: (-rule.urgency, rule.name))
        return matched


def load(directories: Iterable[Path] = ()) -> RuleSet:
    """The shipped rules and those of users' directories; a user's rule replaces one of its name.

    Raises RuleError that names every mistake of every file.
    """
    found: dict[str, Rule] = {}
    mistakes: list[str] = []
    for directory in (SHIPPED, *directories):
        own: dict[str, Path] = {}
        for file in sorted(directory.glob("*.toml")):
            for rule in _read(file, mistakes):
                if rule.name in own:
                    mistakes.append(f"{file}: rule {rule.name!r} is already in {own[rule.name]}; "
                                    f"give one of them another name")
                own[rule.name] = file
                found[rule.name] = rule
        if not directory.is_dir():
            mistakes.append(f"{directory}: there is no such directory of rules")
    if mistakes:
        raise RuleError("\n".join(mistakes))
    return RuleSet(found.values())


def _read(file: Path, mistakes: list[str]) -> list[Rule]:
    """The good rules of one file; what is wrong with the others is added to mistakes."""
    try:
        document = tomllib.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        mistakes.append(f"{file}: {error}")
        return []
    entries = document.get("rules", [document] if "detection" in document else None)
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        mistakes.append(f"{file}: expected one rule with a [detection] table, "
                        f"or a list of them as [[rules]]")
        return []
    rules = []
    for number, entry in enumerate(entries, 1):
        name = entry.get("name")
        label = repr(name) if isinstance(name, str) else f"number {number}"
        try:
            rules.append(_rule(entry))
        except (DetectionError, RuleError) as error:
            mistakes += [f"{file}: rule {label}: {line}" for line in str(error).splitlines()]
    return rules


def _rule(entry: dict[str, Any]) -> Rule:
    """The rule of one table. Source: Sigma rules specification 2.1. Raises on any mistake."""
    mistakes = []
    for key in _TEXTS:
        if key in entry and not (isinstance(entry[key], str) and entry[key].strip()):
            mistakes.append(f"{key}: expected a text")
    for key in _LISTS:
        listed = entry.get(key, [])
        if not isinstance(listed, list) or not all(isinstance(part, str) for part in listed):
            mistakes.append(f"{key}: expected a list of texts")
    for key in ("name", "title", "level"):
        if key not in entry:
            mistakes.append(f"{key}: is missing")
    if entry.get("level", LEVELS[0]) not in LEVELS:
        mistakes.append(f"level: {entry['level']!r} is none of {', '.join(LEVELS)}")
    if not isinstance(entry.get("enabled", True), bool):
        mistakes.append("enabled: expected true or false")
    mistakes += _logsource(entry.get("logsource"))
    try:
        predicate = compile_detection(entry.get("detection"))
    except DetectionError as error:
        mistakes.append(str(error))
    if mistakes:
        raise RuleError("\n".join(mistakes))
    return Rule(entry["name"], entry["title"], entry["level"], predicate,
                why=entry.get("why", ""), enabled=entry.get("enabled", True),
                **{key: tuple(entry.get(key, ()))
                   for key in ("covers", "tags", "references", "next")})


def _logsource(source: Any) -> list[str]:
    if source == {"product": "kubernetes", "service": "audit"}:
        return []
    return ["logsource: expected { product = 'kubernetes', service = 'audit' }"]
