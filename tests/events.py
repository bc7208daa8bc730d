"""Real audit events, and bodies made of them."""

import gzip
import itertools
import json
import uuid
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
SAMPLES = DATA.parent.parent / "samples"
_moments = itertools.count()


def sample(name: str) -> list[dict[str, Any]]:
    """The events of one of the samples."""
    items: list[dict[str, Any]] = json.loads((SAMPLES / f"{name}.json").read_bytes())["items"]
    return items


def step(name: str) -> list[dict[str, Any]]:
    """All events of one step of the recorded attacks."""
    for line in (DATA / "attacks.jsonl").read_text("utf-8").splitlines():
        found = json.loads(line)
        if found["step"] == name:
            events: list[dict[str, Any]] = found["events"]
            return events
    raise KeyError(name)


def body(*items: Any) -> bytes:
    """An EventList as the API server writes it."""
    return json.dumps({"kind": "EventList", "apiVersion": "audit.k8s.io/v1", "metadata": {},
                       "items": items}, separators=(",", ":")).encode()


def bodies(name: str) -> list[bytes]:
    """Request bodies as posted, one a line."""
    file = DATA / name
    data = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    return data.splitlines()


def fresh(event: dict[str, Any]) -> dict[str, Any]:
    """The same event as another request: its own auditID and moment."""
    number = next(_moments)
    return event | {"auditID": str(uuid.uuid4()), "requestReceivedTimestamp":
                    f"2026-11-23T10:{number // 60_000_000 % 60:02}:"
                    f"{number // 1_000_000 % 60:02}.{number % 1_000_000:06}Z"}


def binding() -> dict[str, Any]:
    """A new request that binds somebody to cluster-admin: one alert."""
    return fresh(sample("cluster-admin-binding")[0])


def ordinary(count: int) -> list[dict[str, Any]]:
    """Events of ordinary work that raise no alert, each a new request."""
    found = [event for line in bodies("baseline-work.jsonl.gz")
             for event in json.loads(line)["items"]]
    return [fresh(event) for event in itertools.islice(itertools.cycle(found), count)]
