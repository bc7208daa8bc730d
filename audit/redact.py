"""What is removed from an event before anything is stored: the values of Secrets and tokens."""

import json
import math
import re
from typing import Any

from audit.event import Event

REMOVED = "(removed)"
SECRET_RESOURCES = {"secrets", "tokenreviews", "tokenrequests"}
SECRET_KINDS = {"Secret", "TokenReview", "TokenRequest", "ConfigMap"}
SECRET_MEMBERS = {"data", "stringData", "binaryData", "token"}
# It repeats the whole object, values included, as one text.
SECRET_ANNOTATION = "kubectl.kubernetes.io/last-applied-configuration"
MAX_BODY = 256 * 1024
MAX_TEXT = 16 * 1024

_BODIES = re.compile(
    r'"(requestObject|responseObject)"\s*:.*?(?="requestReceivedTimestamp"\s*:|\Z)', re.DOTALL)
_MEMBERS = re.compile(
    r'"(data|stringData|binaryData|token|kubectl\.kubernetes\.io/last-applied-configuration)"'
    r'\s*:\s*(?:\{(?:[^{}"]++|"[^"\\]*+(?:\\.[^"\\]*+)*+"?)*+\}?|"[^"\\]*+(?:\\.[^"\\]*+)*+"?)',
    re.DOTALL)


def redact(event: Event) -> dict[str, Any]:
    """A copy of the raw event without secrets, fit to be stored.

    Bodies of Secrets and of token requests and reviews keep only what identifies the object;
    the values of such objects and of ConfigMaps are removed wherever they stand, as are endless
    texts. An event with bodies but without an objectRef loses them: nothing tells what they are.
    """
    raw = dict(event.raw)
    reference = raw.get("objectRef") or {}
    secret = (not reference or reference.get("resource") in SECRET_RESOURCES
              or reference.get("subresource") == "token")
    for name in ("requestObject", "responseObject"):
        if name in raw:
            kept = _identity(raw[name]) if secret else scrub(raw[name])
            size = len(json.dumps(kept))
            raw[name] = kept if size <= MAX_BODY else f"{REMOVED[:-1]}: {size} bytes)"
    return {name: value if name in ("requestObject", "responseObject") else scrub(value)
            for name, value in raw.items()}


def scrub(value: Any) -> Any:
    """A copy of a decoded JSON value without the values of Secrets, ConfigMaps and tokens."""
    if isinstance(value, dict):
        secret = value.get("kind") in SECRET_KINDS
        return {name: REMOVED if name == SECRET_ANNOTATION
                or (name in SECRET_MEMBERS and (secret or name == "token"))
                else scrub(child) for name, child in value.items()}
    if isinstance(value, list):
        return [scrub(child) for child in value]
    if isinstance(value, str) and len(value) > MAX_TEXT:
        return f"{value[:MAX_TEXT]}… ({len(value)} characters)"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def scrub_text(text: str) -> str:
    """The same for text that is no JSON: event bodies and secret members are cut out by name."""
    text = _BODIES.sub(lambda found: f'"{found[1]}":"{REMOVED}",', text)
    return _MEMBERS.sub(lambda found: f'"{found[1]}":"{REMOVED}"', text)


def _identity(body: Any) -> Any:
    """What names the object of a secret body, and how long a token is asked for."""
    if not isinstance(body, dict):
        return REMOVED
    kept = {name: body[name] for name in ("kind", "apiVersion", "type")
            if isinstance(body.get(name), str)}
    for part, names in (("metadata", ("name", "namespace", "uid", "generateName")),
                        ("spec", ("expirationSeconds", "audiences"))):
        found = body.get(part)
        if isinstance(found, dict):
            kept[part] = {name: scrub(found[name]) for name in names if name in found}
    return kept
