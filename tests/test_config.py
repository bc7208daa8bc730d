"""Settings: all mistakes at once, in sentences; secrets in files; nothing open by accident."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from audit.config import SETTINGS, ConfigError, load
from tests.service import ROOT, free_port


def test_defaults() -> None:
    values, warnings = load({})
    assert values["AUDIT_BIND"] == "127.0.0.1:8080"
    assert values["AUDIT_DELIVERY_BUDGET"] == 0.25
    assert values["AUDIT_DATABASE"] == "kube-audit-slack.db"
    assert warnings == []
    assert load({"STATE_DIRECTORY": "/tmp"})[0]["AUDIT_DATABASE"] == "/tmp/kube-audit-slack.db"


@pytest.mark.parametrize("environment, said", [
    ({"AUDIT_LEVEL": "loud"}, "AUDIT_LEVEL: 'loud' is wrong: expected one of informational"),
    ({"AUDIT_MAX_BODY": "5 MB"}, "AUDIT_MAX_BODY: '5 MB' is wrong: expected a number"),
    ({"AUDIT_DELIVERY_BUDGET": "-1"}, "expected seconds between 0 and 25"),
    ({"AUDIT_DELIVERY_BUDGET": "nan"}, "expected seconds between 0 and 25"),
    ({"AUDIT_BIND": "8080"}, "expected address:port"),
    ({"AUDIT_RULES": "/nowhere"}, "there is no directory /nowhere"),
    ({"AUDIT_DATABASE": "/nowhere/x.db"}, "there is no directory /nowhere"),
    ({"SLACK_WEBHOOK_URL": "http://evil.example/s3cret"},
     "SLACK_WEBHOOK_URL: its value is wrong: expected an https:// URL"),
    ({"SLACK_WEBHOOK_URL": "https://a/s3cret", "SLACK_TOKEN": "x", "CHANNEL_ID": "C"},
     "both set: keep one way to Slack"),
    ({"SLACK_TOKEN": "s3cret"}, "SLACK_TOKEN is set without CHANNEL_ID"),
    ({"CHANNEL_ID": "C"}, "CHANNEL_ID is set without SLACK_TOKEN"),
    ({"AUDIT_TOKEN": "s3cret with spaces"}, "AUDIT_TOKEN: expected printable ASCII"),
    ({"AUDIT_TOKEN_FILE": "/nowhere"}, "AUDIT_TOKEN_FILE: cannot read /nowhere: No such file"),
    ({"AUDIT_BIND": "0.0.0.0:8080"}, "0.0.0.0:8080 can be reached from other machines"),
    ({"AUDIT_BIND": "[::]:8080"}, "can be reached from other machines"),
    ({"AUDIT_CONFIG": "/nowhere"}, "AUDIT_CONFIG: /nowhere: "),
])
def test_a_mistake_is_a_sentence(environment: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        load(environment)
    assert said in str(found.value)
    assert "s3cret" not in str(found.value)


def test_all_mistakes_at_once() -> None:
    with pytest.raises(ConfigError) as found:
        load({"AUDIT_LEVEL": "x", "AUDIT_MAX_BODY": "y", "CHANNEL_ID": "C"})
    assert len(str(found.value).splitlines()) == 3


def test_secrets_may_stand_in_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("12345\n")
    assert load({"AUDIT_TOKEN_FILE": str(file)})[0]["AUDIT_TOKEN"] == "12345"
    with pytest.raises(ConfigError, match="are both set"):
        load({"AUDIT_TOKEN_FILE": str(file), "AUDIT_TOKEN": "x"})
    file.write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        load({"AUDIT_TOKEN_FILE": str(file)})


def test_a_file_of_settings(tmp_path: Path) -> None:
    file = tmp_path / "audit.toml"
    file.write_text(f'AUDIT_LEVEL = "high"\nAUDIT_DELIVERY_BUDGET = 0\n'
                    f'AUDIT_RULES = ["{tmp_path}"]\n')
    values, _ = load({"AUDIT_CONFIG": str(file), "AUDIT_LEVEL": "low"})
    assert (values["AUDIT_LEVEL"], values["AUDIT_DELIVERY_BUDGET"]) == ("low", 0)
    assert values["AUDIT_RULES"] == (tmp_path,)
    file.write_text("AUDIT_LEVLE = 'high'\nAUDIT_TOKEN = true\n")
    with pytest.raises(ConfigError) as found:
        load({"AUDIT_CONFIG": str(file)})
    assert "AUDIT_LEVLE is no setting; known are AUDIT_BIND" in str(found.value)
    assert "AUDIT_TOKEN: expected a text or a number" in str(found.value)


def test_names_that_kubernetes_injects_are_no_mistake() -> None:
    _, warnings = load({"AUDIT_SERVICE_HOST": "10.0.0.1", "AUDIT_PORT": "tcp://x",
                        "AUDIT_PORT_80_TCP": "y", "AUDIT_LEVLE": "high"})
    assert warnings == ["AUDIT_LEVLE is no setting and is ignored"]


def refused(*words: str, **environment: str) -> str:
    """What gunicorn says when it does not start."""
    clean = {name: value for name, value in os.environ.items()
             if not name.startswith(("AUDIT_", "SLACK_", "CHANNEL_"))}
    ended = subprocess.run([sys.executable, "-m", "gunicorn", "app:app", *words], cwd=ROOT,
                           env=clean | environment, timeout=30, stderr=subprocess.STDOUT,
                           stdout=subprocess.PIPE, text=True)
    assert ended.returncode not in (0, None)
    return ended.stdout


def test_gunicorn_does_not_start_with_mistakes(tmp_path: Path) -> None:
    said = refused(AUDIT_LEVEL="loud", AUDIT_BIND="0.0.0.0:8080")
    assert said.count("kube-audit-slack: AUDIT_") == 2 and "Traceback" not in said
    (tmp_path / "bad.toml").write_text("title = 5")
    said = refused(AUDIT_RULES=str(tmp_path))
    assert "bad.toml" in said and "Traceback" not in said


def test_gunicorn_does_not_listen_to_everybody_by_its_own_option() -> None:
    said = refused("--bind", f"0.0.0.0:{free_port()}")
    assert "can be reached from other machines" in said and "Traceback" not in said


def test_every_setting_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    for setting in SETTINGS:
        default = f"`{setting.default}`" if setting.default else ""
        mark = " ¹" if setting.secret else ""
        row = f"| `{setting.name}`{mark} | {default} | {setting.help} |"
        assert row.replace("|  |", "| |") in readme
