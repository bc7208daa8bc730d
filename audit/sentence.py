"""One sentence for an event: who did what to what, and whether they were allowed to."""

import shlex

from audit.event import Event
from audit.fields import (code, command, dry_run, member, outcome, resource, role, subjects, text,
                          user, user_type, wrote)


class Value(str):
    """A part of a sentence that comes out of the event, and is to be shown as such."""


Parts = list[str]

# Of these there is no "in all namespaces".
CLUSTER_SCOPED = {
    "namespaces", "nodes", "persistentvolumes", "clusterroles", "clusterrolebindings",
    "customresourcedefinitions", "certificatesigningrequests", "storageclasses", "apiservices",
    "mutatingwebhookconfigurations", "validatingwebhookconfigurations", "priorityclasses",
    "validatingadmissionpolicies", "validatingadmissionpolicybindings", "ingressclasses",
    "runtimeclasses", "csidrivers", "csinodes", "volumeattachments",
}

# verb → infinitive, past
_VERBS = {
    "create": ("create", "created"), "update": ("update", "updated"),
    "patch": ("change", "changed"), "delete": ("delete", "deleted"),
    "deletecollection": ("delete all", "deleted all"), "get": ("read", "read"),
    "list": ("list", "listed"), "watch": ("watch", "watched"),
}


def sentence(event: Event) -> Parts:
    """The sentence in parts: plain words, and Values that come out of the event."""
    infinitive, past, rest = _action(event)
    result = outcome(event)
    if result == "denied":
        return [*actor(event), " tried to ", infinitive, *rest, " and was denied"]
    if result == "failed":
        return [*actor(event), " tried to ", infinitive, *rest,
                f", which failed with {code(event)}"]
    if result == "unknown":
        return [*actor(event), " asked to ", infinitive, *rest, "; the answer is not known"]
    return [*actor(event), " ", past, *rest, " (a dry run)" if dry_run(event) else ""]


def actor(event: Event) -> Parts:
    """Who acted, as people know them; with the mask when they impersonated somebody."""
    real, mask = text(event.raw["user"].get("username")), user(event)
    if mask != real:
        return [*_identity(real), " acting as ", *_identity(mask)]
    return _identity(real, user_type(event))


def target(event: Event) -> Parts:
    """What was acted on: kind, namespace and name."""
    reference = event.raw.get("objectRef")
    if not reference:
        return [Value(event.raw["requestURI"])]
    kind, namespace, name = resource(event), text(reference.get("namespace")), object_name(event)
    if kind == "namespaces" or not name:
        namespace = "" if name else namespace
    kind, _, subresource = _plain(kind).partition("/")
    if name:
        return [f"{_singular(kind)} ", Value(f"{namespace}/{name}" if namespace else name),
                f" ({subresource})" if subresource else ""]
    if namespace:
        return [f"{kind} in ", Value(namespace)]
    everywhere = kind not in CLUSTER_SCOPED and event.raw["verb"] in ("list", "watch")
    return [f"{kind} in all namespaces" if everywhere else kind]


def object_name(event: Event) -> str:
    """The object's name: objectRef leaves it out when the server made it up."""
    return (text(member(event.raw, "objectRef", "name"))
            or text(member(event.raw, "responseObject", "metadata", "name"))
            or text(member(event.raw, "requestObject", "metadata", "name"))
            or text(member(event.raw, "requestObject", "metadata", "generateName")))


def commands(event: Event, patterns: list[str]) -> list[str]:
    """The next commands with the event's own names, quoted for a shell.

    patterns: with {namespace}, {name}, {kind}, {user} and {object} (`-n namespace kind name`);
    a command whose names the event does not have is left out.
    """
    reference = event.raw.get("objectRef") or {}
    namespace, kind = text(reference.get("namespace")), text(reference.get("resource"))
    known = {"namespace": namespace, "name": object_name(event), "kind": kind,
             "user": user(event)}
    quoted = {name: shlex.quote(value) for name, value in known.items() if value}
    if "kind" in quoted and "name" in quoted:
        place = f"-n {quoted['namespace']} " if namespace and kind != "namespaces" else ""
        quoted["object"] = f"{place}{quoted['kind']} {quoted['name']}"
    found = []
    for pattern in patterns:
        try:
            found.append(pattern.format_map(quoted))
        except (KeyError, ValueError, IndexError):
            continue
    return found


def plain(parts: Parts) -> str:
    """The sentence as plain text on one line."""
    return "".join(character if character.isprintable() else " " for character in "".join(parts))


def duration(seconds: float) -> str:
    """A length of time in the words of a person."""
    for size, name in ((86400, "day"), (3600, "hour"), (60, "minute")):
        if seconds >= size:
            count = int(seconds // size)
            return f"{count} {name}{'s' if count > 1 else ''}"
    return f"{int(seconds)} s"


def _action(event: Event) -> tuple[str, str, Parts]:
    """What was done: infinitive, past, and the rest of the sentence's end."""
    kind, verb = resource(event), event.raw["verb"]
    if kind == "pods/exec":
        ran = command(event)
        what: Parts = [" ", Value(ran)] if ran else [" a command"]
        return "run", "ran", [*what, " in pod ", _place(event)]
    if kind == "pods/attach":
        return "attach", "attached", [" to pod ", _place(event)]
    if kind == "serviceaccounts/token" and verb == "create":
        return "get", "got", [" a token of service account ", _place(event)]
    bound = role(event) if kind in ("clusterrolebindings", "rolebindings") else ""
    if bound and (verb == "create" or wrote(event) == "created"):
        who = subjects(event)
        listed = ", ".join(who[:3]) + (f" and {len(who) - 3} more" if len(who) > 3 else "")
        return "bind", "bound", [" ", Value(listed or "nobody"), " to ", Value(bound), " (",
                                 *target(event), ")"]
    if verb not in _VERBS or not event.raw.get("objectRef"):
        return "send", "sent", [" ", Value(verb), " to ", *target(event)]
    infinitive, past = _VERBS[verb]
    if wrote(event) == "created" and verb in ("update", "patch"):
        infinitive, past = _VERBS["create"]
    return infinitive, past, [" ", *target(event)]


def _place(event: Event) -> Value:
    namespace = text(member(event.raw, "objectRef", "namespace"))
    name = object_name(event)
    return Value(f"{namespace}/{name}" if namespace else name or "(unnamed)")


def _identity(name: str, kind: str = "") -> Parts:
    if name.startswith("system:serviceaccount:"):
        return ["service account ", Value(name.removeprefix("system:serviceaccount:")
                                          .replace(":", "/", 1))]
    if name.startswith("system:node:"):
        return ["node ", Value(name.removeprefix("system:node:"))]
    if not name:
        return ["a client without a valid identity"]
    return ["an anonymous client (", Value(name), ")"] if kind == "anonymous" else [Value(name)]


def _plain(kind: str) -> str:
    return kind if kind.replace("/", "").replace("-", "").replace(".", "").isalnum() else "objects"


def _singular(kind: str) -> str:
    if kind.endswith("ies"):
        return kind[:-3] + "y"
    if kind.endswith(("sses", "xes")):
        return kind[:-2]
    return kind.removesuffix("s")
