"""The command, as a person or a program calls it; and the README, held to what is there."""

import gzip
import json
import re
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from audit.commands import main
from audit.fields import FIELDS
from tests.events import SAMPLES, binding, body, sample
from tests.service import ROOT

REPLAYED = {"cluster", "auditID", "requestReceivedTimestamp", "rule", "level", "covers", "posted",
            "sentence"}


def call(*words: str, **environment: str) -> Result:
    return CliRunner().invoke(main, words, env=environment)


def test_replay_of_a_sample() -> None:
    ended = call("replay", "--json", str(SAMPLES / "exec-into-pod.json"))
    (line,) = ended.output.splitlines()
    found = json.loads(line)
    assert set(found) == REPLAYED
    assert (found["rule"], found["level"], found["posted"]) == ("pod-exec", "medium", True)
    assert found["covers"] == ["pod-exec", "pod-attach"]
    assert found["sentence"] == "bob@example.com ran ls -la /app in pod web/front-7d9c-x2k"


def test_replay_reads_lists_and_logs_plain_and_packed(tmp_path: Path) -> None:
    events = [binding() for _ in range(3)]
    lines = [json.dumps({"kind": "Event", "apiVersion": "audit.k8s.io/v1"} | event)
             for event in events]
    (tmp_path / "audit.log").write_text("\n".join(lines) + "\n\n")
    (tmp_path / "lists.jsonl").write_bytes(body(events[0]) + b"\n" + body(*events[1:]) + b"\n")
    (tmp_path / "one.json").write_text(json.dumps(json.loads(body(*events)), indent=2))
    (tmp_path / "audit.log.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    for name in ("audit.log", "lists.jsonl", "one.json", "audit.log.gz"):
        ended = call("replay", "--json", str(tmp_path / name))
        assert [json.loads(line)["auditID"] for line in ended.output.splitlines()] == [
            event["auditID"] for event in events], name
    every = call("replay", "--json", *(str(file) for file in tmp_path.iterdir()))
    assert len(every.output.splitlines()) == 3  # the same requests, however often


def test_replay_goes_on_after_what_it_cannot_read(tmp_path: Path) -> None:
    file = tmp_path / "audit.log"
    file.write_text("\n".join([json.dumps(binding()), "nonsense}", '{"half": ',
                               json.dumps(binding())]))
    ended = call("replay", "--json", str(file))
    assert len(ended.stdout.splitlines()) == 2
    assert "line 2 is neither an event nor an EventList" in ended.stderr


def test_replay_with_rules_and_levels_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'name = "mine"\ntitle = "Mine"\nlevel = "low"\nenabled = false\n'
        'logsource = { product = "kubernetes", service = "audit" }\n'
        '[detection]\nselection = { resource = "pods" }\ncondition = "selection"\n')
    words = ("replay", "--json", "--rules", str(tmp_path), str(SAMPLES / "privileged-pod.json"))
    assert len(call(*words).output.splitlines()) == 1
    found = [json.loads(line) for line in call(*words, "--all").output.splitlines()]
    assert [(each["rule"], each["posted"]) for each in found] == [
        ("privileged-pod-created", True), ("mine", False)]


def test_mistakes_are_sentences(tmp_path: Path) -> None:
    assert "AUDIT_LEVEL: 'x' is wrong" in call("replay", "setup.cfg", AUDIT_LEVEL="x").output
    missing = str(tmp_path / "none.db")
    assert "there is no store at" in call("alerts", AUDIT_DATABASE=missing).output
    assert "name the alerts, or give --all" in call("outbox", "requeue").output
    (tmp_path / "text.db").write_text("this is no database, only text that is long enough")
    ended = call("alerts", AUDIT_DATABASE=str(tmp_path / "text.db"))
    assert ended.exit_code == 1 and "cannot be used: file is not a database" in ended.output


def _commands(group: click.Group, path: str = "") -> dict[str, click.Command]:
    found: dict[str, click.Command] = {}
    for name, command in group.commands.items():
        found |= _commands(command, f"{path}{name} ") if isinstance(command, click.Group) else {
            f"{path}{name}": command}
    return found


@pytest.mark.parametrize("name", _commands(main))
def test_every_command_has_help_with_an_example(name: str) -> None:
    ended = call(*name.split(), "--help")
    assert ended.exit_code == 0
    assert "Example: kube-audit-slack " + name in " ".join(ended.output.split())
    assert f"`{name}" in (ROOT / "README.md").read_text("utf-8")


def test_every_field_is_in_the_readme() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.+) \|$", (ROOT / "README.md").read_text("utf-8"),
                           re.MULTILINE))
    for name, function in FIELDS.items():
        assert function.__doc__ and rows[name] == function.__doc__.strip().splitlines()[0]


def test_every_sample_is_in_the_readme_and_small() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    files = list(SAMPLES.iterdir())
    assert len(files) >= 8
    for file in files:
        assert f"| `{file.name}` |" in readme
        assert file.stat().st_size < 8192
        assert sample(file.stem)
