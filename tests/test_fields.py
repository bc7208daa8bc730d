"""Derived fields, and paths through whatever a client sends."""

from typing import Any

import pytest

from audit.event import Event
from audit.fields import FIELDS, reader, walk


def event(**members: Any) -> Event:
    return Event({"verb": "get", "user": {"username": "alice"}, "requestURI": "/x",
                  "stage": "ResponseComplete"} | members)


def test_a_path_follows_every_reading() -> None:
    raw = {"a.b": 1, "a": {"b": [2, {"c": 3}, [4]]}, "l": [{"x": {"y": 5}}, {"x": [{"y": 6}]}]}
    assert sorted(map(str, walk(raw, "a.b"))) == sorted(map(str, [1, 2, {"c": 3}, 4]))
    assert list(walk(raw, "l.x.y")) == [5, 6]
    assert list(walk([{"op": "add"}], "op")) == ["add"]
    assert list(walk({"annotations": {"authorization.k8s.io/decision": "allow"}},
                     "annotations.authorization.k8s.io/decision")) == ["allow"]


def test_deep_lists_do_not_recurse() -> None:
    deep: Any = "x"
    for _ in range(100_000):
        deep = [deep]
    assert list(walk({"a": deep}, "a")) == ["x"]


@pytest.mark.parametrize("name, members, value", [
    ("resource", {"objectRef": {"resource": "pods", "subresource": "exec"}}, "pods/exec"),
    ("resource", {"objectRef": {"resource": ["pods"]}}, ""), ("resource", {}, ""),
    ("user", {}, "alice"), ("user", {"impersonatedUser": {"username": "bob"}}, "bob"),
    ("user", {"user": {}}, ""), ("user", {"user": {"username": 5}}, ""),
    ("user_type", {"user": {}}, "anonymous"), ("user_type", {}, "person"),
    ("user_type", {"user": {"username": "system:node:n"}}, "node"),
    ("user_type", {"user": {"username": "system:serviceaccount:a:b"}}, "service account"),
    ("user_type", {"user": {"username": "system:apiserver"}}, "system"),
    ("outcome", {}, "unknown"), ("outcome", {"responseStatus": {"code": 101}}, "allowed"),
    ("outcome", {"responseStatus": {"code": 401}}, "denied"),
    ("outcome", {"responseStatus": {"code": 403}}, "denied"),
    ("outcome", {"responseStatus": {"code": 422}}, "failed"),
    ("outcome", {"responseStatus": {"code": "200"}}, "unknown"),
    ("source_ip", {"sourceIPs": ["6.6.6.6", "10.0.0.9"]}, "10.0.0.9"), ("source_ip", {}, ""),
    ("path", {"requestURI": "/readyz?verbose"}, "/readyz"),
    ("command", {"requestURI": "/e?command=cat&command=%2Fetc%2Fshadow&stdin=true"},
     "cat /etc/shadow"),
    ("command", {"requestURI": "/e"}, ""), ("command", {"requestURI": "/e?" + "a=&" * 9999}, None),
    ("dry_run", {"requestURI": "/e?dryRun=All"}, True), ("dry_run", {}, False),
    ("wrote", {"verb": "create", "responseStatus": {"code": 201}}, "created"),
    ("wrote", {"verb": "patch", "responseStatus": {"code": 201}}, "created"),
    ("wrote", {"verb": "update", "responseStatus": {"code": 201}}, "created"),
    ("wrote", {"verb": "patch", "responseStatus": {"code": 200}}, "changed"),
    ("wrote", {"verb": "deletecollection", "responseStatus": {"code": 200}}, "deleted"),
    ("wrote", {"verb": "create", "responseStatus": {"code": 403}}, ""),
    ("wrote", {"verb": "create", "responseStatus": {"code": 201},
               "requestURI": "/x?dryRun=All&a=b"}, ""),
    ("wrote", {"verb": "get", "responseStatus": {"code": 200}}, ""),
    ("host_paths", {"objectRef": {"resource": "pods"}, "requestObject": {"spec": {"volumes": [
        {"hostPath": {"path": "//etc/../etc/"}}, {"hostPath": {"path": "/"}}, {"name": "x"}]}}},
     ["/etc", "/"]),
    ("host_paths", {"objectRef": {"resource": "cronjobs"}, "requestObject": {"spec": {
        "jobTemplate": {"spec": {"template": {"spec": {"volumes": [
            {"hostPath": {"path": "/root"}}]}}}}}}}, ["/root"]),
    ("containers", {"objectRef": {"resource": "deployments"}, "requestObject": {"spec": {
        "template": {"spec": {"containers": [{"name": "a"}], "initContainers": [{"name": "b"}, 5],
                              "ephemeralContainers": {"name": "c"}}}}}},
     [{"name": "a"}, {"name": "b"}, {"name": "c"}]),
    ("role", {"requestObject": [{"op": "add"}],
              "responseObject": {"roleRef": {"name": "cluster-admin"}}}, "cluster-admin"),
    ("subjects", {"requestObject": {"subjects": [
        {"kind": "User", "name": "m"}, {"kind": "ServiceAccount", "namespace": "n", "name": "s"},
        7]}}, ["User m", "ServiceAccount n/s", " "]),
])
def test_a_derived_field(name: str, members: dict[str, Any], value: Any) -> None:
    found = FIELDS[name](event(**members))
    assert value is None or found == value


WEIRD: list[Any] = [None, 5, 1.5, True, "x", "", [], [[]], {}, {"a": 1}, [None], [{"a": [1]}]]


@pytest.mark.parametrize("name", sorted(FIELDS))
@pytest.mark.parametrize("weird", WEIRD, ids=repr)
def test_no_derived_field_fails_whatever_a_client_sends(name: str, weird: Any) -> None:
    for resource in ("pods", "cronjobs", "clusterrolebindings", "roles"):
        for body in (weird, {"spec": weird, "rules": weird, "roleRef": weird, "subjects": weird},
                     {"spec": {"template": weird, "containers": weird, "volumes": weird,
                               "jobTemplate": {"spec": weird}}},
                     {"spec": {"volumes": [{"hostPath": {"path": weird}}],
                               "containers": [weird]}, "roleRef": {"name": weird},
                      "subjects": [{"name": weird, "kind": weird, "namespace": weird}]}):
            found = event(requestObject=body, responseObject=body, sourceIPs=[weird],
                          objectRef={"resource": resource, "name": weird}, user={"username": weird},
                          impersonatedUser={"username": weird}, responseStatus={"code": weird})
            reader(name)(found)
