"""Sigma detections: search identifiers, modifiers and conditions become predicates on events.

Sigma specification 2.1. What it leaves open about lists inside events is decided so: a
comparison holds when any value on the path satisfies it, and `field[any]:` (`[all]`, `[none]`)
with a nested map binds its conditions to one element of a list.
"""

import operator
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from audit.event import Event
from audit.fields import FIELDS, reader, walk

Test = Callable[[Any], bool]
Read = Callable[[str], Callable[[Any], list[Any]]]
Needs = dict[str, frozenset[str]]

MODIFIERS = ("contains", "startswith", "endswith", "all", "re", "exists", "gt", "gte", "lt", "lte")
TOP_LEVEL = {
    "kind", "apiVersion", "level", "auditID", "stage", "requestURI", "verb", "user",
    "impersonatedUser", "authenticationMetadata", "sourceIPs", "userAgent", "objectRef",
    "responseStatus", "requestObject", "responseObject", "requestReceivedTimestamp",
    "stageTimestamp", "annotations",
}
# Patterns run on text that attackers write; no longer text decides anything that matters here.
SEARCHED = 16 * 1024

_ELEMENT = re.compile(r"(.+)\[(any|all|none)\]")
_TOKEN = re.compile(r"\s*(?:([()])|([A-Za-z0-9_*-]+)|(\S))")
_ESCAPED = re.compile(r"\\([\\*?])|([*?])|(\\)|([^\\*?]+)", re.DOTALL)


class DetectionError(ValueError):
    """A detection that cannot be evaluated: which key, what is wrong, what to write."""


class Predicate(NamedTuple):
    """A test of an event, and what every event that passes it must have.

    needs: field name → the only texts (lower case) that the field can have; what is not named
    may be anything. The index of a rule set and the smallest audit policy follow from it.
    """

    test: Callable[[Event], bool]
    needs: Needs


def compile_detection(detection: Any) -> Predicate:
    """The predicate of a rule's `detection` section.

    detection: search identifiers by name, and `condition`. Raises DetectionError.
    """
    if not isinstance(detection, dict):
        raise DetectionError("detection: expected a table of search identifiers and a condition")
    condition = detection.get("condition")
    if not isinstance(condition, str) or not condition.strip():
        raise DetectionError("detection.condition: expected a text such as 'selection'")
    identifiers = {name: _identifier(name, body) for name, body in detection.items()
                   if name != "condition"}
    if not identifiers:
        raise DetectionError("detection: expected at least one search identifier, found none")
    return _Condition(condition, identifiers).parse()


def _identifier(name: str, body: Any) -> Predicate:
    """The predicate of one search identifier: a map (all keys), or a list of maps (one map)."""
    if isinstance(body, dict) and body:
        return _map(name, body)
    if isinstance(body, list) and body and all(isinstance(part, dict) and part for part in body):
        return _either([_map(name, part) for part in body])
    raise DetectionError(f"detection.{name}: expected a table of fields, or a list of such tables")


def _map(name: str, body: dict[str, Any]) -> Predicate:
    needs: Needs = {}
    tests = []
    for key, wanted in body.items():
        field = key.partition("|")[0].partition("[")[0]
        root = field.partition(".")[0]
        if root not in FIELDS and root not in TOP_LEVEL:
            raise DetectionError(f"detection.{name}.{key}: no audit event has a field {root!r}; "
                                 f"fields of the object written start with requestObject")
        tests.append(_item(f"detection.{name}.{key}", key, wanted, reader))
        exact = _exact(key, wanted)
        if exact:
            needs[field] = exact
    return Predicate(_every(tests), needs)


def _exact(key: str, wanted: Any) -> frozenset[str] | None:
    """The texts that an unmodified key compares with, when they hold no wildcard."""
    listed = wanted if isinstance(wanted, list) else [wanted]
    if "|" in key or not all(isinstance(value, str) and value for value in listed):
        return None
    if any(character in value for value in listed for character in "*?\\"):
        return None
    return frozenset(value.lower() for value in listed)


def _item(where: str, key: str, wanted: Any, read: Read) -> Test:
    """The test of one key and its value against whatever `read` finds at the key's path."""
    if isinstance(wanted, dict):
        return _element(where, key, wanted, read)
    path, *modifiers = key.split("|")
    for modifier in modifiers:
        if modifier not in MODIFIERS:
            raise DetectionError(f"{where}: unknown modifier {modifier!r}; "
                                 f"known are {', '.join(MODIFIERS)}")
    find = read(path)
    if modifiers == ["exists"]:
        if not isinstance(wanted, bool):
            raise DetectionError(f"{where}: exists takes true or false")
        return lambda root: bool(find(root)) == wanted
    listed = wanted if isinstance(wanted, list) else [wanted]
    if not listed:
        raise DetectionError(f"{where}: expected a value or a list of values, found an empty list")
    exact = _exact(key, wanted)
    if exact:
        return _one_of(find, exact)
    every = "all" in modifiers
    kinds = [modifier for modifier in modifiers if modifier != "all"]
    if len(kinds) > 1:
        raise DetectionError(f"{where}: {' and '.join(kinds)} cannot be combined")
    tests = [_comparison(where, kinds[0] if kinds else "", value) for value in listed]
    combine = all if every else any
    return lambda root: combine(any(map(test, found)) for found in (find(root),)
                                for test in tests)


def _one_of(find: Callable[[Any], list[Any]], texts: frozenset[str]) -> Test:
    """The test that nearly all events meet first, so it is written out."""
    def test(root: Any) -> bool:
        for value in find(root):
            found = value if value.__class__ is str else as_text(value)
            if found is not None and found.lower() in texts:
                return True
        return False
    return test


def _every(tests: list[Test]) -> Test:
    """The test that all of these hold."""
    def test(root: Any) -> bool:
        for each in tests:
            if not each(root):
                return False
        return True
    return tests[0] if len(tests) == 1 else test


def _element(where: str, key: str, wanted: dict[str, Any], read: Read) -> Test:
    """The test that one element of a list (any), each, or none meets all keys of a nested map."""
    bound = _ELEMENT.fullmatch(key)
    if bound is None:
        raise DetectionError(f"{where}: a nested table binds one element of a list: write "
                             f"'{key}[any]'; a dotted path must be quoted as one key")
    if not wanted:
        raise DetectionError(f"{where}: expected at least one field of the element")

    def read_element(path: str) -> Callable[[Any], list[Any]]:
        return lambda element: list(walk(element, path))

    tests = [_item(f"{where}.{inner}", inner, value, read_element)
             for inner, value in wanted.items()]
    find, quantity = read(bound[1]), bound[2]

    matches = _every(tests)
    if quantity == "any":
        return lambda root: any(map(matches, find(root)))
    if quantity == "none":
        return lambda root: not any(map(matches, find(root)))
    return lambda root: bool(find(root)) and all(map(matches, find(root)))


def _comparison(where: str, kind: str, wanted: Any) -> Test:
    """The test of one value of an event against one value of a rule."""
    if kind in ("gt", "gte", "lt", "lte"):
        return _order(where, kind, wanted)
    if kind == "re":
        return _search(where, wanted)
    if kind and not isinstance(wanted, str):
        raise DetectionError(f"{where}: {kind} takes a text")
    if wanted is None:
        return lambda value: value is None
    if isinstance(wanted, (bool, int, float)):
        return lambda value: as_text(value) == as_text(wanted)
    if not isinstance(wanted, str):
        raise DetectionError(f"{where}: expected a text, a number or a boolean")
    if wanted == "*" and not kind:
        return lambda value: value is not None
    before = "" if kind in ("", "startswith") else ".*"
    after = "" if kind in ("", "endswith") else ".*"
    body, plain = _pattern(wanted)
    if plain is not None and not kind:
        return lambda value: (found := as_text(value)) is not None and found.lower() == plain
    match = re.compile(before + body + after, re.IGNORECASE | re.DOTALL).fullmatch
    return lambda value: (found := as_text(value)) is not None and bool(match(found))


def as_text(value: Any) -> str | None:
    """The text that a value of an event compares as; None for what has none."""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value) if isinstance(value, int) else None


def _pattern(wanted: str) -> tuple[str, str | None]:
    """The regular expression of a text with wildcards, and the lower-case text if it has none.

    Backslash escapes a wildcard or a backslash and is itself before anything else.
    """
    expression, plain = "", ""
    wild = False
    for escaped, wildcard, backslash, literal in _ESCAPED.findall(wanted):
        if wildcard:
            wild = True
            expression += ".*" if wildcard == "*" else "."
        else:
            part = escaped or backslash or literal
            plain += part
            expression += re.escape(part)
    return expression, None if wild else plain.lower()


def _search(where: str, wanted: Any) -> Test:
    if not isinstance(wanted, str):
        raise DetectionError(f"{where}: re takes a text")
    try:
        search = re.compile(wanted).search
    except re.error as error:
        raise DetectionError(f"{where}: no regular expression: {error}") from None
    return lambda value: (found := as_text(value)) is not None and bool(search(found[:SEARCHED]))


def _order(where: str, kind: str, wanted: Any) -> Test:
    if isinstance(wanted, bool) or not isinstance(wanted, (int, float)):
        raise DetectionError(f"{where}: {kind} takes a number")
    compare = {"gt": operator.gt, "gte": operator.ge, "lt": operator.lt, "lte": operator.le}[kind]
    return lambda value: (isinstance(value, (int, float)) and not isinstance(value, bool)
                          and bool(compare(value, wanted)))


def _either(parts: list[Predicate]) -> Predicate:
    """One of these: needed is only what each of them needs, in any of its forms."""
    tests = [part.test for part in parts]
    shared = set.intersection(*(set(part.needs) for part in parts))
    return Predicate(lambda event: any(test(event) for test in tests),
                     {field: frozenset().union(*(part.needs[field] for part in parts))
                      for field in shared})


def _both(parts: list[Predicate]) -> Predicate:
    """All of these: needed is what any of them needs."""
    needs: Needs = {}
    for part in parts:
        for field, texts in part.needs.items():
            needs[field] = needs[field] & texts if field in needs else texts
    return Predicate(_every([part.test for part in parts]), needs)


class _Condition:
    """A recursive-descent parser: or, and, not, parentheses, `1 of x*`, `all of them`."""

    def __init__(self, text: str, identifiers: dict[str, Predicate]) -> None:
        self.text = text
        self.identifiers = identifiers
        self.tokens = [(found[found.lastindex or 0], found.start(found.lastindex or 0))
                       for found in _TOKEN.finditer(text)]
        self.at = 0

    def parse(self) -> Predicate:
        predicate = self.disjunction()
        if self.at < len(self.tokens):
            raise self.error(f"expected 'and', 'or' or the end, found {self.peek()!r}")
        return predicate

    def disjunction(self) -> Predicate:
        parts = [self.conjunction()]
        while self.take("or"):
            parts.append(self.conjunction())
        return parts[0] if len(parts) == 1 else _either(parts)

    def conjunction(self) -> Predicate:
        parts = [self.negation()]
        while self.take("and"):
            parts.append(self.negation())
        return parts[0] if len(parts) == 1 else _both(parts)

    def negation(self) -> Predicate:
        if self.take("not"):
            denied = self.negation().test
            return Predicate(lambda event: not denied(event), {})
        if self.take("("):
            inner = self.disjunction()
            if not self.take(")"):
                raise self.error("expected ')'")
            return inner
        return self.primary()

    def primary(self) -> Predicate:
        word = self.peek()
        self.at += 1
        if word in ("1", "any", "all") and self.take("of"):
            found = self.matching(self.peek())
            self.at += 1
            return _both(found) if word == "all" else _either(found)
        if word in self.identifiers:
            return self.identifiers[word]
        self.at -= 1
        raise self.error(f"expected a search identifier ({', '.join(sorted(self.identifiers))}), "
                         f"found {word or 'the end'!r}")

    def matching(self, pattern: str) -> list[Predicate]:
        wanted = re.escape("*" if pattern == "them" else pattern).replace(r"\*", ".*")
        found = [predicate for name, predicate in self.identifiers.items()
                 if re.fullmatch(wanted, name)
                 and (not name.startswith("_") or pattern.startswith("_"))]
        if not found:
            raise self.error(f"no search identifier is named like {pattern!r}")
        return found

    def peek(self) -> str:
        return self.tokens[self.at][0] if self.at < len(self.tokens) else ""

    def take(self, word: str) -> bool:
        taken = self.peek() == word
        self.at += taken
        return taken

    def error(self, message: str) -> DetectionError:
        column = self.tokens[self.at][1] if self.at < len(self.tokens) else len(self.text)
        return DetectionError(f"detection.condition, column {column + 1}: {message}")
