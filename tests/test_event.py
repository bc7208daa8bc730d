"""Bodies become events one at a time, whatever stands in them."""

import json
import random
import re
import time
import tracemalloc
from typing import Any

import pytest

from audit.event import MAX_DEPTH, WINDOW, Event, MalformedBody, Rejected, decode, parse_event
from tests.events import binding, bodies, body, fresh, ordinary, sample, step


def patch(text: bytes) -> bytes:
    """A body of three events, the middle one with these bytes as its requestObject."""
    first, last = (json.dumps(binding()).encode() for _ in range(2))
    event = fresh(ordinary(1)[0]) | {"objectRef": {"resource": "configmaps", "name": "any"}}
    event.pop("requestObject", None)
    middle = json.dumps(event).encode()[:-1] + b',"requestObject":' + text + b"}"
    return (b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","metadata":{},"items":['
            + b",".join((first, middle, last)) + b"]}")


@pytest.mark.parametrize("name", ["baseline-start.jsonl.gz", "baseline-work.jsonl.gz"])
def test_real_bodies_decode_to_what_json_makes_of_them(name: str) -> None:
    for text in bodies(name):
        found = [item.raw for item in decode(text) if isinstance(item, Event)]
        assert found == json.loads(text)["items"]


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": "), (",\n \t", " :\r\n ")])
@pytest.mark.parametrize("indent", [None, 2])
def test_any_layout_of_json_is_read(separators: tuple[str, str], indent: int | None) -> None:
    events = ordinary(700) + [binding() | {"userAgent": "é漢😀\\\"{[" * 3}] + ordinary(700)
    random.Random(1).shuffle(events)
    for order in (("kind", "apiVersion", "items"), ("apiVersion", "items", "kind", "metadata")):
        document = {"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {},
                    "items": events}
        text = json.dumps({key: document[key] for key in order}, separators=separators,
                          indent=indent, ensure_ascii=False).encode()
        assert len(text) > 2 * WINDOW
        assert [item.raw for item in decode(text) if isinstance(item, Event)] == events


def test_an_item_larger_than_a_window_is_read() -> None:
    large = binding() | {"requestObject": {"data": [{"text": "é{" * WINDOW}] * 2}}
    items = list(decode(body(binding(), large, binding())))
    assert len(items) == 3
    assert isinstance(items[1], Event) and items[1].raw == large


HOSTILE = {
    "digits": b'{"data":' + b"9" * 6000 + b"}",
    "negative digits": b"-" + b"1" * 100_000,
    "arrays": b"[" * 10_000 + b"]" * 10_000,
    "arrays just too deep": b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1),
    "objects": b'{"a":' * 9_999 + b"1" + b"}" * 9_999,
    "mixed nesting": b'[{"a":' * 990 + b"[]" + b"}]" * 990,
    "no UTF-8": b'{"a":"\xff\xfe"}',
    "half a character": b'{"a":"\xe2\x82"}',
    "surrogates as bytes": b'{"a":"\xed\xa0\x80"}',
    "Latin-1 key": b'{"caf\xe9":"x","kind":"Secret"}',
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_body_costs_only_itself(name: str) -> None:
    items = [item for item in decode(patch(HOSTILE[name])) if isinstance(item, Event)]
    assert len(items) == 3
    assert [item.undecoded for item in items] == [(), ("requestObject",), ()]
    assert items[1].raw["objectRef"]["resource"] == "configmaps"
    assert items[1].raw["user"] and items[1].raw["requestReceivedTimestamp"]


HARMLESS = {
    "surrogate": b'{"a":"\\ud800","b":"\\udfff\\ud800"}',
    "NUL": b'{"a":"\\u0000"}',
    "duplicate keys": b'{"a":1,"a":{"a":2,"a":3}}',
    "digits in a float": b'{"data":1' + b"0" * 5000 + b".5e3}",
    "huge float": b'{"a":1e999}',
    "brackets in text": b'{"a":"]}]}],[{","b":"\\"]}","c":"\\\\"}',
    "another list inside": b'{"items":[{"level":"Metadata"},{"level":"x"}],"kind":"EventList"}',
    "empty": b"null",
    "text": b'"{\\"level\\":"',
    "wide": b"[" + b"[]," * 99_999 + b"[]]",
}


@pytest.mark.parametrize("name", HARMLESS)
def test_odd_but_plain_json_is_read_whole(name: str) -> None:
    items = [item for item in decode(patch(HARMLESS[name])) if isinstance(item, Event)]
    assert [item.undecoded for item in items] == [(), (), ()]


def test_what_no_parser_takes_is_read_as_nearly_as_possible() -> None:
    items = list(decode(patch(b'{"roleRef":{"name":"cluster-admin"},"n":' + b"7" * 5000 + b"}")))
    assert isinstance(items[1], Event)
    assert items[1].raw["requestObject"]["roleRef"] == {"name": "cluster-admin"}
    items = list(decode(patch(b'{"roleRef":{"name":"cluster-admin"},"n":"\xff"}')))
    assert isinstance(items[1], Event)
    assert items[1].raw["requestObject"]["roleRef"] == {"name": "cluster-admin"}


def test_the_recorded_hostile_bodies() -> None:
    found = [[item for item in decode(text) if isinstance(item, Event) and item.undecoded]
             for text in bodies("hostile-bodies.jsonl")]
    assert [len(items) for items in found] == [1, 1, 0, 0, 1]
    assert all(item.undecoded == ("requestObject",) for items in found for item in items)


def test_a_body_that_ends_too_early_is_refused_whole() -> None:
    text = body(*step("V18-same-audit-id"), *sample("exec-into-pod"))
    for end in range(len(text)):
        with pytest.raises(MalformedBody):
            list(decode(text[:end]))


@pytest.mark.parametrize("text, said", [
    (b"", "found nothing"), (b"  \n", "found nothing"), (b"hello", "found 'hello'"),
    (b"[]", "found '[]'"), (b'{"kind":"Event","apiVersion":"audit.k8s.io/v1"}', "kind"),
    (b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1beta1","items":[]}', "v1beta1"),
    (b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1"}', "items"),
    (b'{"kind":"EventList","apiVersion":"audit.k8s.io/v1","items":{}}', "list"),
    (body(binding()) + b"x", "end of the body"), (body(binding()) + body(), "end of the body"),
    (body(binding()).replace(b"}]}", b"},]}"), "expected an item"),
    (body(binding()).replace(b'"items":[', b'"items":[,'), "expected an item"),
    (body(binding()).replace(b"}]}", b"} 5]}"), "comma"),
    (b"\xff\xfe{}", "found"), (b'{"kind" "EventList"}', "member"),
])
def test_what_is_no_event_list_is_refused_in_words(text: bytes, said: str) -> None:
    with pytest.raises(MalformedBody, match=re.escape(said)):
        list(decode(text))


def test_an_empty_list_has_no_events() -> None:
    assert list(decode(body())) == []
    assert list(decode(body().replace(b"[]", b"null"))) == []


@pytest.mark.parametrize("item, said", [
    (5, "found a number"), (None, "found null"), ([], "found a list"), ("x", "found a text"),
    (True, "found a boolean"), ({}, "expected level to be a text, found none"),
    (binding() | {"user": "bob"}, "expected user to be an object, found a text"),
    (binding() | {"auditID": 7}, "expected auditID to be a text, found a number"),
    (binding() | {"annotations": []}, "expected annotations to be an object, found a list"),
])
def test_an_item_that_is_no_event_is_rejected_alone(item: Any, said: str) -> None:
    found = list(decode(body(binding(), item, binding())))
    assert [isinstance(each, Event) for each in found] == [True, False, True]
    assert isinstance(found[1], Rejected)
    assert said in found[1].reason


def test_an_item_that_is_no_json_is_rejected_alone() -> None:
    good = json.dumps(binding()).encode()
    for bad in (b"{'level':'x'}", b'{"level":"x",,}', b"{nonsense}", b"tru", b'{"level":NaN}'):
        text = body().replace(b"[]", b"[" + b",".join((good, bad, good)) + b"]")
        found = list(decode(text))
        assert [isinstance(each, Event) for each in found] == [True, False, True], bad


def test_one_event_of_a_log() -> None:
    event = binding()
    found = parse_event(json.dumps({"kind": "Event"} | event).encode())
    assert isinstance(found, Event) and found.raw["auditID"] == event["auditID"]
    assert isinstance(parse_event(b'{"half'), Rejected)


def test_a_request_is_identified_by_more_than_its_audit_id() -> None:
    first, second = (Event(raw, "a") for raw in step("V18-same-audit-id"))
    assert first.raw["auditID"] == second.raw["auditID"]
    assert first.request != second.request
    stages = {Event(raw, "a").request for raw in step("exec-refused")}
    assert len(stages) == 1
    assert Event(first.raw, "b").request != first.request


def test_a_large_body_needs_little_more_than_itself() -> None:
    text = bytearray(body(*ordinary(20_000)))
    tracemalloc.start()
    count = sum(1 for _ in decode(text))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 20_000
    assert peak < 12 * 2**20 < len(text)


@pytest.mark.parametrize("piece", [
    b'{"level":"x"},', b'[],', b'"\\"",', b'{"a":"' + b"\\\\" * 50 + b'"},', b"[[[[]]]],"])
def test_decoding_is_linear(piece: bytes) -> None:
    def seconds(count: int) -> float:
        text = patch(b"[" + b"9" * 5000 + b"," + piece * count + b"1]")
        best = 9.9
        for _ in range(3):
            started = time.perf_counter()
            list(decode(text))
            best = min(best, time.perf_counter() - started)
        return best
    assert seconds(80_000) < 8 * 2.5 * seconds(10_000)


@pytest.mark.parametrize("piece", [
    b"{x},", b'{"level":tru},', b'{"a":"\x01"},', b"5,", b'{"a":"\xff"},', b'{"a":"\\q"},',
    b'{"a":' + b"9" * 5000 + b"},"])
def test_bad_items_cost_only_themselves(piece: bytes) -> None:
    good = json.dumps(binding()).encode()
    text = body().replace(b"[]", b"[" + piece * 2000 + good + b"]") + b" " * 3_000_000
    started = time.perf_counter()
    found = list(decode(text))
    assert time.perf_counter() - started < 4.0
    assert len(found) == 2001 and isinstance(found[-1], Event)
