"""Audit events: the bytes of an EventList become one Event for each item, whatever stands in them.

The API server copies the body of a PATCH into its event byte for byte, so integers of thousands
of digits, thousands of nested arrays and bytes that are no UTF-8 all arrive. Items are therefore
told apart by a scan that no content can break, and each is decoded alone.
"""

import codecs
import hashlib
import json
import re
from collections.abc import Generator, Iterator
from typing import Any

API_VERSION = "audit.k8s.io/v1"
# Python's own decoder gives up at a depth that differs from version to version and with the stack
# that is in use, and nothing in Kubernetes nests this deep: so the limit is ours.
MAX_DEPTH = 200
# The API server takes no request body above 3 MB; only answers to lists are larger.
MAX_MEMBER = 16 * 2**20
# Bytes that are decoded at once; few after an item that had to be cut out, lest a body of such
# items is read over and over.
WINDOW = 2**19
SMALL_WINDOW = 2**12

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_PLAIN = rb'[^"\[\]{}]'
# Small lists and objects are passed over whole, two levels deep: the scan stops only at brackets
# that hold more, which keeps it fast on bodies that are nothing but brackets.
_FLAT = rb"[\[{](?:" + _PLAIN + rb"++|" + _STRING + rb")*+[\]}]"
_SMALL = rb"[\[{](?:" + _PLAIN + rb"++|" + _STRING + rb"|" + _FLAT + rb")*+[\]}]"
_TO_BRACKET = re.compile(
    rb"(?:" + _PLAIN + rb"++|" + _STRING + rb"|" + _SMALL + rb")*+", re.DOTALL)
_TEXT = re.compile(_STRING, re.DOTALL)
_SCALAR = re.compile(rb'[^\s,\[\]{}":]++')
_SPACE = re.compile(rb"[ \t\r\n]*+")
_NAME = re.compile(rb"[ \t\r\n]*+(" + _STRING + rb")[ \t\r\n]*+:[ \t\r\n]*+", re.DOTALL)
_SEPARATOR = re.compile(r"[ \t\r\n]*+([,\]])[ \t\r\n]*+")


class MalformedBody(ValueError):
    """The request body is no EventList that can be told apart into items; none of it is taken."""


class Event:
    """One audit event as the API server wrote it.

    raw: the decoded audit.k8s.io/v1 Event; cluster: who sent it; undecoded: names of the members
    whose text no parser takes as it is (absent from raw, or only approximately there).
    """

    __slots__ = ("raw", "cluster", "undecoded")

    def __init__(self, raw: dict[str, Any], cluster: str = "",
                 undecoded: tuple[str, ...] = ()) -> None:
        self.raw = raw
        self.cluster = cluster
        self.undecoded = undecoded

    @property
    def request(self) -> str:
        """The identity of the API request, equal in all its stages and retries: 32 hex digits.

        A client can choose the auditID (request header Audit-ID), so it alone is no identity;
        requestReceivedTimestamp is the server's own, in microseconds.
        """
        raw = self.raw
        user = raw["user"].get("username")
        return digest(self.cluster, raw["auditID"], raw["requestReceivedTimestamp"], user,
                      raw["verb"], raw["requestURI"])


class Rejected:
    """An item that is no audit event.

    reason: one sentence; text: the item's bytes.
    """

    __slots__ = ("reason", "text")

    def __init__(self, reason: str, text: bytes) -> None:
        self.reason = reason
        self.text = text


def digest(*parts: Any) -> str:
    """32 hex digits that stand for these JSON values in this order."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def decode(body: bytes | bytearray, cluster: str = "") -> Iterator[Event | Rejected]:
    """The items of an EventList, decoded one at a time.

    body: JSON, UTF-8. Nothing that was yielded may be acted on before the iterator has ended: a
    body that stops early raises at its end, and the API server sends it again. Memory beyond the
    body stays below a few windows and one item; time is linear in the length of the body.

    Raises MalformedBody. Source: k8s.io/apiserver pkg/apis/audit/v1 EventList.
    """
    at = _space(body, 0)
    if body[at:at + 1] != b"{":
        found = "nothing" if at == len(body) else f"{_excerpt(body, at, 20)!r}"
        raise MalformedBody(f"expected a JSON object of kind EventList, found {found}")
    found_kind: dict[bytes, bytes] = {}
    has_items = False
    mark = b"{"
    while (member := _next_member(body, at, mark)) is not None:
        name, start = member
        mark = b","
        if name == b'"items"' and body[start:start + 1] == b"[":
            has_items = True
            at = yield from _items(body, _space(body, start + 1), cluster)
            continue
        at = _value_end(body, start)
        if name == b'"items"':
            has_items = True
            if body[start:at] != b"null":
                raise MalformedBody(f"expected items to be a list, found "
                                    f"{_excerpt(body, start)!r} at byte {start}")
        elif name in (b'"kind"', b'"apiVersion"'):
            found_kind[name] = bytes(body[start:at])
    for name, wanted in ((b'"kind"', "EventList"), (b'"apiVersion"', API_VERSION)):
        value = found_kind.get(name, b"nothing")
        if value != b'"' + wanted.encode() + b'"':
            raise MalformedBody(f"expected {name.decode()[1:-1]} to be {wanted}, found "
                                f"{_excerpt(value, 0, 40)!r}")
    if not has_items:
        raise MalformedBody("expected items, a list of audit events, found none")


def parse_event(text: bytes, cluster: str = "") -> Event | Rejected:
    """One event from one JSON text, as the API server's log backend writes them (one a line)."""
    try:
        start = _space(text, 0)
        end = _value_end(text, start)
    except MalformedBody as error:
        return Rejected(str(error), text)
    if _space(text, end) != len(text):
        return Rejected(f"the JSON value ends at byte {end} and text follows", text)
    return _decode_alone(text, start, end, cluster)


def _items(body: bytes | bytearray, at: int,
           cluster: str) -> Generator[Event | Rejected, None, int]:
    """Yield the items of the list whose first item stands at `at`; return the index behind it.

    Windows of the body are decoded as text and items are taken from them as long as that goes
    well. Where it does not (a window that ends inside an item, or an item that Python's decoder
    refuses) the next window starts at that item, and is doubled while the item only ends behind
    it; an item that is refused is cut out by the scan and decoded alone.
    """
    raw_decode = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
    if body[at:at + 1] == b"]":
        return at + 1
    size = WINDOW
    while True:
        text, whole = _window(body, at, size)
        fault: str | None = None
        position, last, longer = 0, False, False
        while True:
            try:
                raw, end = raw_decode(text, position)
            except json.JSONDecodeError as error:
                longer = whole and _is_cut(error)
                break
            except (ValueError, RecursionError):
                break
            if text.startswith(",{", end):
                following, last = end + 1, False
            else:
                separator = _SEPARATOR.match(text, end)
                if separator is None:
                    break
                following, last = separator.end(), separator[1] == "]"
            if raw.__class__ is not dict or tuple(map(type, map(raw.get, _MEMBERS))) not in _SEEN:
                fault = _fault(raw)
            if fault:
                yield Rejected(fault, text[position:end].encode("utf-8", "surrogatepass"))
                fault = None
            elif ("requestObject" in raw or "responseObject" in raw) and _too_deep(
                    raw, text, position, end):
                break
            else:
                yield Event(raw, cluster)
            position = following
            if last:
                break
        if position:
            at += position if text.isascii() else len(text[:position].encode())
            if last:
                return at
            size = min(2 * size, WINDOW)
            continue
        if longer and size < MAX_MEMBER and at + size < len(body):
            size *= 2
            continue
        size = SMALL_WINDOW
        at = _space(body, at)
        if body[at:at + 1] in (b",", b"]"):
            raise MalformedBody(f"expected an item, found {_excerpt(body, at)!r} at byte {at}")
        item_end = _value_end(body, at)
        yield _decode_alone(body, at, item_end, cluster)
        at = _space(body, item_end)
        mark = body[at:at + 1]
        if mark == b"]":
            return at + 1
        if mark != b",":
            raise _unexpected(body, at, "a comma or the end of the items")
        at += 1


def _window(body: bytes | bytearray, at: int, size: int) -> tuple[str, bool]:
    """The text of the next bytes up to the first that is no UTF-8, and whether there is none."""
    piece = memoryview(body)[at:at + size]
    try:
        return codecs.utf_8_decode(piece, "strict", False)[0], True
    except UnicodeDecodeError as error:
        return str(piece[:error.start], "utf-8"), False


def _is_cut(error: json.JSONDecodeError) -> bool:
    """Whether a text was refused because it ends too early, as far as the error tells."""
    # The longest that can be cut at the end and is reported at its start: an escape, a literal.
    return error.msg.startswith("Unterminated string") or error.pos >= len(error.doc) - 12


def _decode_alone(body: bytes | bytearray, start: int, end: int,
                  cluster: str) -> Event | Rejected:
    """The event between two bytes, member by member where it cannot be decoded whole."""
    item = bytes(body[start:end])
    raw: Any
    undecoded: list[str] = []
    try:
        raw = _strict(item)
    except (ValueError, RecursionError):
        try:
            raw = {}
            value_end, mark = 0, b"{"
            while (member := _next_member(item, value_end, mark)) is not None:
                name, at = member
                value_end, mark = _value_end(item, at), b","
                value, whole = _member(item[at:value_end])
                key = json.loads(name)
                if value is not None:
                    raw[key] = value
                # The answer to a list may be of any size; what a client sent may not.
                if not whole and not (key == "responseObject" and value_end - at > MAX_MEMBER):
                    undecoded.append(key)
        except ValueError as error:
            return Rejected(f"not JSON: {error}", item)
    fault = _fault(raw)
    if fault:
        return Rejected(fault, item)
    return Event(raw, cluster, tuple(undecoded))


def _strict(text: bytes) -> Any:
    """The value of a JSON text that is plain: ValueError or RecursionError otherwise."""
    if len(text) > MAX_MEMBER:
        raise ValueError("too large to be decoded in one piece")
    decoded = text.decode()
    value = json.loads(decoded, parse_constant=_refuse_constant)
    if _too_deep(value, decoded, 0, len(decoded)):
        raise ValueError("nested too deep")
    return value


def _member(text: bytes) -> tuple[Any, bool]:
    """A member's value, and whether that is the whole truth.

    What the strict decoder refuses is read as nearly as possible, so that rules still see it:
    bytes that are no UTF-8 as replacement characters, endless integers as text. None is what
    cannot be read at all.
    """
    try:
        return _strict(text), True
    except (ValueError, RecursionError):
        if len(text) > MAX_MEMBER:
            return None, False
    try:
        decoded = text.decode("utf-8", "replace")
        value = json.loads(decoded, parse_int=_integer_or_text, parse_constant=str, strict=False)
    except (ValueError, RecursionError):
        return None, False
    return (None if _too_deep(value, decoded, 0, len(decoded)) else value), False


def _integer_or_text(digits: str) -> int | str:
    try:
        return int(digits)
    except ValueError:
        return digits


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _too_deep(value: Any, text: str, start: int, end: int) -> bool:
    """Whether a decoded value nests deeper than MAX_DEPTH.

    Counting brackets in its text answers for nearly all; the rest are walked level by level.
    """
    if text.count("{", start, end) + text.count("[", start, end) <= MAX_DEPTH:
        return False
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return True
        level = [child for node in level
                 for child in (node.values() if isinstance(node, dict) else node)
                 if child.__class__ in (dict, list)]
    return False


_KINDS = (
    ("level", str, True), ("auditID", str, True), ("stage", str, True),
    ("requestURI", str, True), ("verb", str, True), ("user", dict, True),
    ("requestReceivedTimestamp", str, True),
    ("impersonatedUser", dict, False), ("sourceIPs", list, False), ("userAgent", str, False),
    ("objectRef", dict, False), ("responseStatus", dict, False), ("annotations", dict, False),
    ("stageTimestamp", str, False),
)
_MEMBERS = tuple(name for name, _, _ in _KINDS)
# Combinations of member types that _fault() has found good: nearly every event has one of these.
_SEEN: set[tuple[type, ...]] = set()
_WORDS = {str: "a text", dict: "an object", list: "a list", int: "a number", float: "a number",
          bool: "a boolean", type(None): "null"}


def _fault(raw: Any) -> str | None:
    """Why a decoded item is no audit event, in words; None when it is one.

    Source: k8s.io/apiserver pkg/apis/audit/v1 Event (which members it always writes).
    """
    if raw.__class__ is not dict:
        return f"expected an audit event (an object), found {_WORDS[raw.__class__]}"
    for name, kind, required in _KINDS:
        value = raw.get(name)
        if value.__class__ is not kind and (required or value is not None):
            found = "none" if name not in raw else _WORDS[value.__class__]
            return f"expected {name} to be {_WORDS[kind]}, found {found}"
    _SEEN.add(tuple(map(type, map(raw.get, _MEMBERS))))
    return None


def _next_member(body: bytes | bytearray, at: int, mark: bytes) -> tuple[bytes, int] | None:
    """The next member of an object: its name with quotes, and the index of its value.

    at: where `mark` is due: a brace before the first member, a comma before the others. None when
    the object ends there, and with it the whole body. Raises MalformedBody.
    """
    at = _space(body, at)
    found = body[at:at + 1]
    if found == mark:
        name = _NAME.match(body, at + 1)
        if name is not None:
            return name[1], name.end()
        at = _space(body, at + 1)
        found = body[at:at + 1] if mark == b"{" else b""
    if found != b"}":
        raise _unexpected(body, at, "a member or the end of the object")
    at = _space(body, at + 1)
    if at != len(body):
        raise MalformedBody(f"expected the end of the body at byte {at}, found "
                            f"{_excerpt(body, at)!r}")
    return None


def _value_end(body: bytes | bytearray, at: int) -> int:
    """The index behind the JSON value that starts at `at`, whatever its strings hold."""
    mark = body[at:at + 1]
    if mark not in (b"{", b"["):
        match = (_TEXT if mark == b'"' else _SCALAR).match(body, at)
        if match is None:
            raise _unexpected(body, at, "a value")
        return match.end()
    depth, size, find = 1, len(body), _TO_BRACKET.match
    while True:
        match = find(body, at + 1)
        at = match.end() if match else size
        if at >= size or body[at] == 0x22:
            raise MalformedBody(f"the body ends too early, after {size} bytes, inside a value")
        depth += 1 if body[at] in b"{[" else -1
        if depth == 0:
            return at + 1


def _space(body: bytes | bytearray, at: int) -> int:
    match = _SPACE.match(body, at)
    return match.end() if match else at


def _unexpected(body: bytes | bytearray, at: int, wanted: str) -> MalformedBody:
    if at >= len(body):
        return MalformedBody(f"the body ends too early, after {len(body)} bytes: "
                             f"expected {wanted}")
    return MalformedBody(f"expected {wanted} at byte {at}, found {_excerpt(body, at)!r}")


def _excerpt(body: bytes | bytearray, at: int, length: int = 1) -> str:
    """The next characters: just one inside a body, for it may be a part of a secret."""
    return bytes(body[at:at + length]).decode("utf-8", "replace")
