"""The shipped rules on real attacks and on ordinary work; rule files and their mistakes."""

import json
from pathlib import Path

import pytest

from audit import rules
from audit.event import Event, decode
from audit.rules import Rule, RuleError, RuleSet
from tests.events import DATA, bodies, sample, step

STEPS = [json.loads(line) for line in (DATA / "attacks.jsonl").read_text("utf-8").splitlines()]
SHIPPED = rules.load()


def matched(events: list[dict[str, object]]) -> set[str]:
    return {rule.name for raw in events for rule in SHIPPED.match(Event(raw, "c"))}


@pytest.mark.parametrize("found", STEPS, ids=lambda found: found["step"])
def test_real_attacks(found: dict[str, list[str]]) -> None:
    answered = {row for rule in SHIPPED.rules for row in rule.covers}
    covered = {row for rule in SHIPPED.rules for row in rule.covers
               if rule.name in matched(found["events"])}  # type: ignore[arg-type]
    assert {row for row in found["expect"] if row in answered} <= covered
    assert not {row[1:] for row in found["expect"] if row.startswith("!")} & covered


@pytest.mark.parametrize("name", ["baseline-start.jsonl.gz", "baseline-work.jsonl.gz"])
def test_ordinary_work_is_silent(name: str) -> None:
    found = [(rule.name, item.raw["user"]["username"]) for text in bodies(name)
             for item in decode(text) if isinstance(item, Event) for rule in SHIPPED.match(item)]
    # kubeadm's first administrator binds the group of all others, once in a cluster's life.
    kubeadm = [("cluster-admin-binding-created", "kubernetes-super-admin")]
    assert found == (kubeadm if "start" in name else [])


def test_the_most_urgent_rule_leads() -> None:
    (raw,) = sample("host-namespaces-daemonset")
    assert [rule.name for rule in SHIPPED.match(Event(raw))] == [
        "privileged-pod-created", "pod-host-namespaces"]


def test_what_was_only_received_matches_nothing() -> None:
    (raw,) = sample("cluster-admin-binding")
    assert SHIPPED.match(Event(raw | {"stage": "RequestReceived"})) == []
    assert "pod-exec" in matched(step("X-stages"))


def test_every_shipped_rule_explains_itself() -> None:
    assert len(SHIPPED.rules) == 11
    for rule in SHIPPED.rules:
        assert rule.why.endswith(".") and rule.next and rule.covers, rule.name
        assert any(tag.startswith("attack.t") for tag in rule.tags), rule.name


def test_a_rule_that_fails_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    def fail(event: Event) -> bool:
        raise RuntimeError("boom")

    broken = Rule("broken", "Broken", "low", SHIPPED.rules[0].predicate._replace(
        test=fail, needs={}))
    (raw,) = sample("cluster-admin-binding")
    found = RuleSet([broken, *SHIPPED.rules]).match(Event(raw))
    assert [rule.name for rule in found] == ["cluster-admin-binding-created"]
    assert "broken failed" in caplog.text


GOOD = """
name = "mine"
title = "Mine"
level = "low"
logsource = { product = "kubernetes", service = "audit" }
[detection]
selection = { verb = "get" }
condition = "selection"
"""


def test_users_rules_are_added_and_replace(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(GOOD.replace('"mine"', '"pod-exec"').replace(
        "[detection]", "enabled = false\n[detection]"))
    found = rules.load([tmp_path])
    assert {rule.name for rule in found.rules} > {"mine", "pod-exec"}
    names = {rule.name for raw in sample("exec-into-pod") for rule in found.match(Event(raw))}
    assert names == {"mine"}
    everything = found.all_enabled()
    names = {rule.name for raw in sample("exec-into-pod") for rule in everything.match(Event(raw))}
    assert names == {"mine", "pod-exec"}


@pytest.mark.parametrize("change, said", [
    (("level = \"low\"", "level = \"severe\""), "level: 'severe' is none of informational, low"),
    (("title = \"Mine\"", ""), "rule 'mine': title: is missing"),
    (("name = \"mine\"", ""), "rule number 1: name: is missing"),
    (("\"kubernetes\"", "\"windows\""), "logsource: expected"),
    (("\"selection\"", "\"selektion\""), "condition, column 1"),
    (("[detection]", "next = 5\n[detection]"), "next: expected a list of texts"),
    (("[detection]", "enabled = \"no\"\n[detection]"), "enabled: expected true or false"),
    (("[detection]", "[detection"), "line 6"),
])
def test_mistakes_are_all_named(tmp_path: Path, change: tuple[str, str], said: str) -> None:
    (tmp_path / "bad.toml").write_text(GOOD.replace(*change))
    (tmp_path / "worse.toml").write_text("title = 5")
    with pytest.raises(RuleError) as found:
        rules.load([tmp_path])
    first, *others = str(found.value).splitlines()
    assert "bad.toml" in first and said in str(found.value)
    assert any("worse.toml" in line for line in others)


def test_a_name_that_is_there_twice(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text(GOOD)
    (tmp_path / "b.toml").write_text(GOOD)
    with pytest.raises(RuleError, match="'mine' is already in .*a.toml"):
        rules.load([tmp_path])
    with pytest.raises(RuleError, match="no such directory"):
        rules.load([tmp_path / "nothing"])
