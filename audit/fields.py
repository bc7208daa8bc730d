"""The words that rules, sentences and messages share: paths into an event, and derived fields.

A derived field says what no raw path can: each is a function of the Event, registered by @field
under its own name, and documented by its docstring.
"""

import posixpath
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any
from urllib.parse import parse_qs, unquote

from audit.event import Event

Field = Callable[[Event], Any]
FIELDS: dict[str, Field] = {}

ANONYMOUS = ("system:anonymous", "system:unauthenticated", "")
WRITES = {"create", "update", "patch", "delete", "deletecollection"}


def field(function: Field) -> Field:
    """Register a derived field under its function's name."""
    FIELDS[function.__name__] = function
    return function


@cache
def reader(path: str) -> Callable[[Event], list[Any]]:
    """The function that gives all values at a field: a derived one, or a path into the raw event.

    At each object every prefix that is a key is followed, so that keys with dots are found and a
    decoy key hides nothing; a list yields each of its elements. Nothing recurses: an event may
    nest lists as deep as its sender likes.
    """
    name, _, rest = path.partition(".")
    derived = FIELDS.get(name)
    # `user` alone is who acted; `user.username` is what stands in the event.
    if derived is not None and not (rest and name == "user"):
        return lambda event: _flat(derived(event), rest)
    if not rest:
        return lambda event: _flat(event.raw[path], "") if path in event.raw else []
    return lambda event: list(walk(event.raw, path))


def _flat(value: Any, rest: str) -> list[Any]:
    if rest or isinstance(value, list):
        return list(walk(value, rest))
    return [value]


def walk(root: Any, path: str) -> Iterator[Any]:
    """Each value that a dotted path reaches from here; an empty path reaches the value itself."""
    pending = [(root, path)]
    while pending:
        node, rest = pending.pop()
        if isinstance(node, list):
            pending.extend((child, rest) for child in reversed(node))
        elif not rest:
            yield node
        elif isinstance(node, dict):
            if rest in node:
                pending.append((node[rest], ""))
            dot = rest.find(".")
            while dot >= 0:
                if rest[:dot] in node:
                    pending.append((node[rest[:dot]], rest[dot + 1:]))
                dot = rest.find(".", dot + 1)


def text(value: Any) -> str:
    """A value of an event as text; what is no text is empty."""
    return value if isinstance(value, str) else ""


def member(node: Any, *names: str) -> Any:
    """The member that these names lead to, or None: for nodes of any shape."""
    for name in names:
        node = node.get(name) if isinstance(node, dict) else None
    return node


def code(event: Event) -> int | None:
    """The HTTP status of the answer, None before there is one."""
    value = member(event.raw, "responseStatus", "code")
    return value if isinstance(value, int) and not isinstance(value, bool) else None


@field
def cluster(event: Event) -> str:
    """The cluster whose API server sent the event (`/webhook/<cluster>`). Example: `prod`."""
    return event.cluster


@field
def decoded(event: Event) -> str:
    """`whole`, or `partly` when a part of the event is in a form that no parser takes."""
    return "partly" if event.undecoded else "whole"


@field
def resource(event: Event) -> str:
    """objectRef.resource with its subresource, empty for other URLs. Example: `pods/exec`."""
    reference = event.raw.get("objectRef")
    if not reference:
        return ""
    name, subresource = reference.get("resource"), reference.get("subresource")
    if subresource is None and isinstance(name, str):
        return name
    return f"{text(name)}/{text(subresource)}" if text(subresource) else text(name)


@field
def user(event: Event) -> str:
    """Who acted: the impersonated user where there is one, else who authenticated."""
    mask = event.raw.get("impersonatedUser")
    return (mask and text(mask.get("username"))) or text(event.raw["user"].get("username"))


@field
def user_type(event: Event) -> str:
    """What kind of identity `user` is.

    `anonymous`, `node`, `service account`, `system` (the control plane's own names) or `person`.
    """
    name = user(event)
    if name in ANONYMOUS:
        return "anonymous"
    if name.startswith("system:node:"):
        return "node"
    if name.startswith("system:serviceaccount:"):
        return "service account"
    return "system" if name.startswith("system:") else "person"


@field
def outcome(event: Event) -> str:
    """What became of the request: `allowed`, `denied`, `failed`, or `unknown` without an answer.

    The code decides, not the authorizer's annotation: admission, escalation checks and quota
    refuse after the authorizer allowed, and a 401 has no annotation at all.
    """
    status = code(event)
    if status is None:
        return "unknown"
    if status in (401, 403):
        return "denied"
    return "allowed" if status < 400 else "failed"


@field
def source_ip(event: Event) -> str:
    """The peer that connected: the last of sourceIPs, the only one a client cannot forge."""
    addresses = event.raw.get("sourceIPs")
    return text(addresses[-1]) if addresses else ""


@field
def path(event: Event) -> str:
    """requestURI without its query. Example: `/readyz` for `/readyz?verbose`."""
    uri: str = event.raw["requestURI"]
    return uri.partition("?")[0]


@field
def command(event: Event) -> str:
    """The command of an exec, decoded from requestURI. Example: `cat /etc/shadow`."""
    uri: str = event.raw["requestURI"]
    query = uri.partition("?")[2][:65536]
    try:
        words = parse_qs(query, keep_blank_values=True, max_num_fields=1000).get("command", [])
    except ValueError:
        return unquote(query)
    return " ".join(words)


@field
def dry_run(event: Event) -> bool:
    """Whether the request asked for dryRun, which changes nothing in the cluster."""
    query = event.raw["requestURI"].partition("?")[2]
    return "dryRun=" in query and bool(parse_qs(query[:65536]).get("dryRun"))


@field
def wrote(event: Event) -> str:
    """`created`, `changed` or `deleted` when the request took effect, else empty.

    A create needs no verb create: server-side apply (patch) and PUT (update) of a new name answer
    201 (kubernetes#115627). A dry run, a refusal and a failure wrote nothing.
    """
    verb = event.raw["verb"]
    if verb not in WRITES:
        return ""
    status = code(event)
    if status is None or not 200 <= status < 300 or dry_run(event):
        return ""
    if verb in ("delete", "deletecollection"):
        return "deleted"
    return "created" if status == 201 or verb == "create" else "changed"


@field
def body(event: Event) -> Any:
    """What the client asked to be written.

    requestObject where it is an object; responseObject, the result, where the request was a JSON
    Patch (a list of operations) or could not be read.
    """
    sent = event.raw.get("requestObject")
    return sent if isinstance(sent, dict) else event.raw.get("responseObject")


_POD_SPECS = {
    "pods": ("spec",), "pods/ephemeralcontainers": ("spec",),
    "podtemplates": ("template", "spec"),
    "cronjobs": ("spec", "jobTemplate", "spec", "template", "spec"),
    **{kind: ("spec", "template", "spec") for kind in (
        "deployments", "daemonsets", "statefulsets", "replicasets", "replicationcontrollers",
        "jobs")},
}


@field
def pod_spec(event: Event) -> Any:
    """The specification of the pod, wherever the kind of object keeps it.

    Pods, and the templates of deployments, daemonsets, statefulsets, replicasets, jobs, cronjobs
    and replication controllers.
    """
    where = _POD_SPECS.get(resource(event))
    return member(body(event), *where) if where else None


@field
def containers(event: Event) -> list[Any]:
    """All containers of the pod: containers, initContainers and ephemeralContainers."""
    spec = pod_spec(event)
    return [container for kind in ("containers", "initContainers", "ephemeralContainers")
            for container in walk(member(spec, kind), "") if isinstance(container, dict)]


@field
def host_paths(event: Event) -> list[str]:
    """The node's paths that the pod mounts, normalised. Example: `/etc` for `//etc/../etc/`."""
    found = walk(pod_spec(event), "volumes.hostPath.path")
    return ["/" + posixpath.normpath(found_path).strip("/")
            for found_path in found if isinstance(found_path, str)]


@field
def role_rules(event: Event) -> list[Any]:
    """The rules of the role that was written."""
    return [rule for rule in walk(member(body(event), "rules"), "") if isinstance(rule, dict)]


@field
def role(event: Event) -> str:
    """The role that a binding gives. Example: `cluster-admin`."""
    return text(member(body(event), "roleRef", "name"))


@field
def subjects(event: Event) -> list[str]:
    """Who a binding gives its role to. Example: `User mallory`, `ServiceAccount kube-system/ci`."""
    found = []
    for subject in walk(member(body(event), "subjects"), ""):
        name, namespace = text(member(subject, "name")), text(member(subject, "namespace"))
        found.append(f"{text(member(subject, 'kind'))} "
                     f"{namespace}/{name}" if namespace else
                     f"{text(member(subject, 'kind'))} {name}")
    return found
