"""What is removed before anything is stored."""

import json
from typing import Any

import pytest

from audit.event import Event
from audit.redact import redact, scrub_text
from tests.events import binding, step

PLANTED = "cGxhbnRlZC1zZWNyZXQ="
SECRET = {"kind": "Secret", "apiVersion": "v1", "type": "Opaque",
          "metadata": {"name": "db", "namespace": "a"},
          "data": {"k": PLANTED}, "stringData": {"k": PLANTED}}


@pytest.mark.parametrize("reference, body", [
    ({"resource": "secrets"}, SECRET), ({"resource": "secrets"}, {"data": {"a": PLANTED}}),
    ({"resource": "secrets"}, [{"op": "add", "path": "/data/a", "value": PLANTED}]),
    ({"resource": "secrets"}, PLANTED), ({"resource": "secrets", "subresource": "x"}, SECRET),
    ({"resource": "secrets"}, {"kind": "SecretList", "items": [SECRET]}),
    ({"resource": "tokenreviews"}, {"kind": "TokenReview", "spec": {"token": PLANTED}}),
    ({"resource": "serviceaccounts", "subresource": "token"}, {"status": {"token": PLANTED}}),
    ({"resource": "pods"}, {"kind": "List", "items": [{"a": [SECRET]}]}),
    ({"resource": "configmaps"}, {"kind": "ConfigMap", "data": {"p": PLANTED},
                                  "binaryData": {"p": PLANTED}}),
    ({"resource": "widgets"}, {"metadata": {"annotations": {
        "kubectl.kubernetes.io/last-applied-configuration": json.dumps(SECRET)}}}),
    ({"resource": "widgets"}, {"spec": {"deep": [{"token": PLANTED}]}}),
    (None, SECRET), (None, {"anything": PLANTED}),
])
def test_secrets_are_removed(reference: dict[str, str] | None, body: Any) -> None:
    for name in ("requestObject", "responseObject"):
        raw = binding() | {"requestObject": {}, "responseObject": {}, name: body}
        raw["objectRef"] = reference
        if reference is None:
            del raw["objectRef"]
        before = json.dumps(raw)
        assert PLANTED not in json.dumps(redact(Event(raw)))
        assert json.dumps(raw) == before


def test_what_tells_the_story_stays() -> None:
    raw = binding()
    assert redact(Event(raw)) == raw
    (token,) = step("T5-token")
    kept = redact(Event(token))
    assert kept["requestObject"]["spec"]["expirationSeconds"] == 946080000
    assert kept["annotations"] == token["annotations"]
    secret = redact(Event(binding() | {"objectRef": {"resource": "secrets"},
                                       "requestObject": SECRET}))["requestObject"]
    assert secret == {"kind": "Secret", "apiVersion": "v1", "type": "Opaque",
                      "metadata": {"name": "db", "namespace": "a"}}


def test_endless_bodies_and_texts_are_cut() -> None:
    kept = redact(Event(binding() | {"userAgent": "x" * 10**6,
                                     "requestObject": {"a": ["y" * 1000] * 1000}}))
    assert len(json.dumps(kept)) < 40_000
    assert kept["requestObject"].startswith("(removed: 100")


def test_numbers_that_json_does_not_have_are_texts() -> None:
    kept = redact(Event(binding() | {"requestObject": {"a": float("inf")}}))
    json.loads(json.dumps(kept, allow_nan=False))


@pytest.mark.parametrize("end", range(0, 1100, 7))
def test_text_that_is_no_json_loses_bodies_and_secrets(end: int) -> None:
    raw = binding() | {"requestObject": SECRET, "responseObject": SECRET}
    text = json.dumps({"items": [raw, raw]})
    for broken in (text[:-end - 1], text.replace(" ", "")[:-end - 1], json.dumps(SECRET)[:-end - 1],
                   json.dumps(SECRET, indent=2)[:-end - 1], text.replace("}", "")):
        assert PLANTED[:8] not in scrub_text(broken)
