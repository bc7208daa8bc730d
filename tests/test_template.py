"""Messages: what they say, and what nothing hostile can make of them."""

import itertools
import json
from typing import Any

import pytest

from audit import rules
from audit.alert import alerts_of, notice
from audit.event import Event
from audit.sinks.console import Console
from audit.template import Messages, clean, code, summary
from tests.events import binding, sample, step
from tests.slack_server import check_message, strings

RULES = rules.load()
MESSAGES = Messages()


def message(raw: dict[str, Any], **more: Any) -> dict[str, Any]:
    event = Event(raw, "prod", **more)
    found = MESSAGES.render(alerts_of(event, RULES.match(event) or list(RULES.rules[:3]), 0))
    assert check_message(found) == ("", [])
    return found


def shape(node: Any) -> Any:
    """A message without its texts."""
    if isinstance(node, dict):
        return {name: shape(child) for name, child in node.items()}
    return [shape(child) for child in node] if isinstance(node, list) else type(node)


HOSTILE = [
    "<!channel>", "<!here|x>", "<@U012345>", "<#C012345>", "<!subteam^S1>", "@channel", "@here",
    "<https://evil.example|click here>", "https://evil.example/x", "*bold* _it_ ~s~ `code`", "```x",
    "&lt;!channel&gt;", "&amp;", "a\nb\r\nc\tz", "\u202eevil\u202c",
    "\u200bzero\ufeff", "\x00\x1b[31m",
    "\ud800", "\udfff\ud83d", "{{ 7*7 }}", "{% for x in y %}", '"}],"blocks":[{', "\\\"", "",
    " ", "x" * 100_000, "<" * 5000, "`" * 5000, "&" * 5000,
    "😀👨‍👩‍👧" * 500, "a\u0301" * 3000, "-" * 300, "'; rm -rf / #", "$(id)", "<!date^1^{date}|x>",
    "\u2028\u2029", ":rotating_light:",
]


@pytest.mark.parametrize("value", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_values_change_nothing(value: str) -> None:
    base = binding()
    user = {"username": value, "groups": [value, value]}
    for raw in (
        base | {"user": user}, base | {"auditID": value}, base | {"userAgent": value},
        base | {"sourceIPs": [value]}, base | {"impersonatedUser": user},
        base | {"annotations": {"authorization.k8s.io/reason": value}},
        base | {"objectRef": {"resource": value, "name": value, "namespace": value,
                              "subresource": value}},
        base | {"objectRef": {"resource": "rolebindings", "name": value, "namespace": value},
                "requestObject": {"subjects": [{"kind": value, "name": value,
                                                "namespace": value}] * 9,
                                  "roleRef": {"name": value}}},
        base | {"responseStatus": {"code": 403, "message": value}},
        base | {"requestURI": value, "verb": value},
        base | {"verb": value, "requestReceivedTimestamp": value, "stageTimestamp": value},
        sample("exec-into-pod")[1] | {"requestURI": "/x?command=" + value.replace("&", "%26")},
    ):
        found = message(json.loads(json.dumps(raw)))
        assert found["text"] and "7*7" not in found["text"].replace("{{ 7*7 }}", "")
        assert not any("49" == text for text in strings(found))
        json.dumps(found, ensure_ascii=False).encode()


def test_no_value_changes_the_structure() -> None:
    plain = shape(message(binding() | {"userAgent": "kubectl"}))
    for value in HOSTILE:
        if clean(value):
            assert shape(message(binding() | {"userAgent": value})) == plain


def test_the_longest_message_keeps_the_limits() -> None:
    long = "W" * 10_000
    for filling in ("W", "&", "`", "é", "'"):
        value = long.replace("W", filling)
        message(sample("exec-into-pod")[1] | {
            "user": {"username": value, "groups": [value] * 5}, "userAgent": value,
            "impersonatedUser": {"username": value}, "auditID": value, "sourceIPs": [value],
            "requestURI": "/x?command=" + value.replace("&", "%26"),
            "objectRef": {"resource": "pods", "subresource": "exec", "namespace": value,
                          "name": value},
            "responseStatus": {"code": 500, "message": value}},
            undecoded=("requestObject", "responseObject"))


def test_an_empty_value_takes_its_field_with_it() -> None:
    raw = binding()
    raw.pop("userAgent")
    found = json.dumps(message(raw | {"annotations": {}}))
    assert "with" not in found.partition("*From*")[2][:40]
    assert "*Result*\\nallowed (201)\"" in found


def test_a_code_span_cannot_be_left() -> None:
    assert code("a`b*c*<x>&") == "`aˋb*c*&lt;x&gt;&amp;`"
    assert code("x" * 500).endswith("x…`") and len(code("x" * 500)) == 203
    assert code("") == code("\n\u200b") == ""


def test_a_notice() -> None:
    found = MESSAGES.render([notice("rejected-items", "prod", "Malformed <audit> events",
                                    "3 of the items are none.", "Look.", 1e9,
                                    ["expected `x` & <!channel>", "another"])])
    assert check_message(found) == ("", [])
    assert found["text"] == "Malformed &lt;audit&gt; events: 3 of the items are none."


SENTENCES = {
    "exec-into-pod": "bob@example.com ran ls -la /app in pod web/front-7d9c-x2k",
    "exec-refused": "eve@example.com tried to run id in pod web/front-7d9c-x2k and was denied",
    "cluster-admin-binding": "kubernetes-admin bound User mallory to cluster-admin "
                             "(clusterrolebinding x)",
    "wildcard-role": "kubernetes-admin created clusterrole stratus-red-team-clusterrole",
    "privileged-pod": "kubernetes-admin created pod payments/privileged-pod",
    "host-namespaces-daemonset": "kubernetes-admin created daemonset kube-system/kube-proxy-v2",
    "watch-all-secrets": "kubernetes-admin watched secrets in all namespaces",
    "anonymous-request": "an anonymous client (system:anonymous) listed namespaces",
    "admission-webhook": "kubernetes-admin created mutatingwebhookconfiguration x",
    "token-for-a-person": "kubernetes-admin got a token of service account "
                          "kube-system/clusterrole-aggregation-controller",
    "dry-run-is-silent": "kubernetes-admin created pod payments/v17b (a dry run)",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_the_sentence(name: str) -> None:
    raw = sample(name)[-1]
    assert summary(alerts_of(Event(raw), list(RULES.rules[:1]), 0)) == SENTENCES[name]


def test_the_sentence_names_the_mask_and_creation_by_patch() -> None:
    raw = step("exec-impersonated")[-1]
    assert summary(alerts_of(Event(raw), list(RULES.rules[:1]), 0)) == (
        "kubernetes-admin acting as bob@example.com ran id in pod web/front-7d9c-x2k")
    assert summary(alerts_of(Event(step("V2-put-role")[0]), list(RULES.rules[:1]), 0)) == (
        "kubernetes-admin created clusterrole v2")


def test_next_commands_are_quoted_for_a_shell() -> None:
    raw = sample("cluster-admin-binding")[0]
    raw["objectRef"]["name"] = "x; rm -rf '/'"
    assert """`kubectl get clusterrolebindings 'x; rm -rf '"'"'/'"'"'' -o yaml`""" in "".join(
        strings(message(raw)))


def test_the_console_reads_like_slack(capsys: pytest.CaptureFixture[str]) -> None:
    Console().post(message(sample("exec-into-pod")[1]))
    Console().post({"text": "only &lt;text&gt;"})
    out = capsys.readouterr().out
    assert "🟠 Command run in a container\n`bob@example.com` ran `ls -la /app`" in out
    assert "▌ When      2026-11-23 15:54:19 UTC\n" in out
    assert out.endswith("only <text>\n")
    assert all(character == "\n" or character.isprintable() for character in out)
    assert not any(len(list(group)) > 100 for _, group in itertools.groupby(out))
