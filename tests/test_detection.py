"""Sigma detections: what matches, and what is refused in words."""

from typing import Any

import pytest

from audit.detection import DetectionError, compile_detection
from audit.event import Event


def event(**members: Any) -> Event:
    return Event({"verb": "get", "user": {"username": "Alice"}, "requestURI": "/x",
                  "stage": "ResponseComplete", "sourceIPs": ["10.0.0.1", "::1"],
                  "responseStatus": {"code": 200}, "requestObject": {"spec": {
                      "hostPID": True, "n": "a*b", "empty": "", "nothing": None,
                      "rules": [{"verbs": ["*"], "resources": ["pods"]},
                                {"verbs": ["get"], "resources": ["secrets"]}]}}} | members)


SPEC = "requestObject.spec"


@pytest.mark.parametrize("selection, matches", [
    ({"verb": "get"}, True), ({"verb": "GET"}, True), ({"verb": "ge"}, False),
    ({"verb": ["list", "get"]}, True), ({"verb": "get", "user.username": "bob"}, False),
    ([{"verb": "list"}, {"user.username": "alice"}], True),
    ({"user.username": "al*"}, True), ({"user.username": "a?ice"}, True),
    ({"user.username": "*"}, True), ({"userAgent": "*"}, False), ({"user.username": "a?"}, False),
    ({f"{SPEC}.n": r"a\*b"}, True), ({f"{SPEC}.n": r"a\*"}, False), ({f"{SPEC}.n": "a*b"}, True),
    ({"user.username|contains": "LIC"}, True), ({"user.username|startswith": "lice"}, False),
    ({"user.username|startswith": "al"}, True), ({"user.username|endswith": "CE"}, True),
    ({"user.username|contains|all": ["a", "c"]}, True),
    ({"user.username|contains|all": ["a", "z"]}, False),
    ({"user.username|re": "^A.+e$"}, True), ({"user.username|re": "^a"}, False),
    ({"userAgent|exists": False}, True), ({"verb|exists": True}, True),
    ({f"{SPEC}.nothing|exists": True}, True), ({f"{SPEC}.other|exists": True}, False),
    ({f"{SPEC}.hostPID": True}, True), ({f"{SPEC}.hostPID": "true"}, True),
    ({f"{SPEC}.hostPID": 1}, False), ({f"{SPEC}.hostPID": False}, False),
    ({"responseStatus.code": 200}, True), ({"responseStatus.code": "200"}, True),
    ({"responseStatus.code": 200.0}, True), ({"responseStatus.code|gte": 200}, True),
    ({"responseStatus.code|gt": 200}, False), ({"responseStatus.code|lt": 200.5}, True),
    ({"user.username|gt": 1}, False), ({f"{SPEC}.hostPID|gte": 1}, False),
    ({"sourceIPs": "::1"}, True), ({f"{SPEC}.rules.resources": "secrets"}, True),
    ({f"{SPEC}.rules[any]": {"verbs": r"\*", "resources": "secrets"}}, False),
    ({f"{SPEC}.rules[any]": {"verbs": r"\*", "resources": "pods"}}, True),
    ({f"{SPEC}.rules[all]": {"verbs": ["get", r"\*"]}}, True),
    ({f"{SPEC}.rules[all]": {"verbs": "get"}}, False),
    ({f"{SPEC}.rules[none]": {"resources": "nodes"}}, True),
    ({f"{SPEC}.empty": ""}, True), ({f"{SPEC}.empty": "*"}, True),
    ({"user": "alice"}, True), ({"outcome": "allowed"}, True),
])
def test_a_selection(selection: Any, matches: bool) -> None:
    found = compile_detection({"selection": selection, "condition": "selection"})
    assert found.test(event()) is matches


@pytest.mark.parametrize("condition, matches", [
    ("yes", True), ("not yes", False), ("yes and no", False), ("yes or no", True),
    ("no and no or yes", True), ("no and (no or yes)", False), ("not no and yes", True),
    ("not not yes", True), ("1 of yes*", True), ("all of yes*", False), ("1 of them", True),
    ("all of them", False), ("any of no*", False), ("not (no)or no", True),
    ("yes and not 1 of no*", True), ("all of _*", True),
])
def test_a_condition(condition: str, matches: bool) -> None:
    yes, no = {"verb": "get"}, {"verb": "list"}
    found = compile_detection({"yes": yes, "yes_too": no, "no": no, "_hidden": yes,
                               "condition": condition})
    assert found.test(event()) is matches


@pytest.mark.parametrize("detection, said", [
    (None, "expected a table"), ({"a": {"verb": "x"}}, "detection.condition"),
    ({"condition": "a"}, "at least one search identifier"),
    ({"a": {}, "condition": "a"}, "detection.a: expected a table of fields"),
    ({"a": {"verb": "x"}, "condition": "a b"}, "column 3: expected 'and', 'or'"),
    ({"a": {"verb": "x"}, "condition": "a and b"}, "column 7: expected a search identifier (a)"),
    ({"a": {"verb": "x"}, "condition": "(a"}, "expected ')'"),
    ({"a": {"verb": "x"}, "condition": "a AND a"}, "expected 'and'"),
    ({"a": {"verb": "x"}, "condition": "1 of b*"}, "named like 'b*'"),
    ({"a": {"verb|like": "x"}, "condition": "a"}, "unknown modifier 'like'; known are contains"),
    ({"a": {"verb|contains": 5}, "condition": "a"}, "contains takes a text"),
    ({"a": {"verb|gt": "5"}, "condition": "a"}, "gt takes a number"),
    ({"a": {"verb|exists": "yes"}, "condition": "a"}, "exists takes true or false"),
    ({"a": {"verb|re": "(x"}, "condition": "a"}, "no regular expression"),
    ({"a": {"verb": []}, "condition": "a"}, "empty list"),
    ({"a": {"objectRef": {"resource": "x"}}, "condition": "a"}, "must be quoted as one key"),
    ({"a": {"hostPath": "x"}, "condition": "a"}, "no audit event has a field 'hostPath'"),
    ({"a": {"verb|re|contains": "x"}, "condition": "a"}, "cannot be combined"),
])
def test_a_mistake_is_named(detection: Any, said: str) -> None:
    with pytest.raises(DetectionError) as found:
        compile_detection(detection)
    assert said in str(found.value)


def test_what_every_match_must_have() -> None:
    found = compile_detection({
        "a": {"resource": ["Pods", "jobs"], "verb": "create", "user": "x*"},
        "b": [{"resource": "pods", "verb": "get"}, {"resource": "nodes"}],
        "condition": "a and not b"})
    assert found.needs == {"resource": {"pods", "jobs"}, "verb": {"create"}}
    either = compile_detection({
        "a": {"resource": "pods", "verb": "get"}, "b": {"resource": "jobs"},
        "condition": "a or b"})
    assert either.needs == {"resource": {"pods", "jobs"}}
    both = compile_detection({
        "a": {"resource": ["pods", "jobs"]}, "b": {"resource": "jobs"}, "condition": "all of them"})
    assert both.needs == {"resource": {"jobs"}}
