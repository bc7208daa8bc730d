"""Settings: one table; read from a TOML file, the environment, and files that hold secrets."""

import os
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from audit.database import is_postgresql
from audit.rules import LEVELS


class ConfigError(ValueError):
    """Settings that cannot be used; one sentence for each mistake, one a line."""


def _text(value: str) -> str:
    return value


def _seconds(value: str) -> float:
    seconds = float(value)
    if not 0 <= seconds <= 25:
        raise ValueError("expected seconds between 0 and 25 (the API server gives up after 30)")
    return seconds


def _days(value: str) -> float:
    days = float(value)
    if not 1 <= days <= 36500:
        raise ValueError("expected a number of days, 1 or more")
    return days


def _bytes(value: str) -> int:
    number = int(value)
    if number < 2**20:
        raise ValueError("expected a number of bytes, 1048576 or more")
    return number


def _level(value: str) -> str:
    if value not in LEVELS:
        raise ValueError(f"expected one of {', '.join(LEVELS)}")
    return value


def _url(value: str) -> str:
    parts = urlsplit(value)
    if not parts.hostname or not (parts.scheme == "https" or (
            parts.scheme == "http" and _is_loopback(parts.hostname))):
        raise ValueError("expected an https:// URL (http:// only to this machine)")
    return value


def _bind(value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise ValueError("expected address:port, such as 127.0.0.1:8080")
    return value


def _directories(value: str) -> tuple[Path, ...]:
    found = tuple(Path(part) for part in value.split(os.pathsep) if part)
    for directory in found:
        if not directory.is_dir():
            raise ValueError(f"there is no directory {directory}")
    return found


@dataclass(frozen=True)
class Setting:
    """One setting: its name, default text, help, how its text is read, whether it is secret."""

    name: str
    default: str
    help: str
    parse: Callable[[str], Any] = _text
    secret: bool = False


SETTINGS = (
    Setting("SLACK_WEBHOOK_URL", "", "URL of a Slack incoming webhook; without any Slack setting "
            "alerts go to the terminal", _url, secret=True),
    Setting("SLACK_TOKEN", "", "bot token (xoxb-…, scope chat:write), with CHANNEL_ID instead of "
            "a webhook", secret=True),
    Setting("CHANNEL_ID", "", "ID of the channel that the bot posts to, such as C0123456789"),
    Setting("SLACK_API_URL", "https://slack.com/api", "base URL of Slack's Web API, for GovSlack "
            "and proxies", _url),
    Setting("AUDIT_BIND", "127.0.0.1:8080", "address and port to listen on; other than loopback "
            "only with AUDIT_TOKEN", _bind),
    Setting("AUDIT_TOKEN", "", "bearer token that the API server must send", secret=True),
    Setting("AUDIT_DATABASE", "", "path of the SQLite file, or postgresql://… (extra [postgres]); "
            "default kube-audit-slack.db in $STATE_DIRECTORY or the working directory",
            secret=True),
    Setting("AUDIT_CLUSTER", "default", "name of the cluster whose events come to plain /webhook"),
    Setting("AUDIT_RULES", "", "directories of your own rules, separated by ':'", _directories),
    Setting("AUDIT_LEVEL", "medium", "lowest level that is posted; what lies below is only kept",
            _level),
    Setting("AUDIT_DELIVERY_BUDGET", "0.25", "seconds that an answer may wait until its alert is "
            "told; 0 never waits", _seconds),
    Setting("AUDIT_MAX_BODY", "67108864", "largest request body in bytes", _bytes),
    Setting("AUDIT_RETENTION", "90", "days that told alerts are kept", _days),
)
CONFIG = "AUDIT_CONFIG"


def load(environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """All settings by name, and warnings.

    The TOML file that AUDIT_CONFIG names comes first, the environment overrides it; a secret may
    stand in a file that NAME_FILE names. Raises ConfigError with every mistake.
    """
    mistakes: list[str] = []
    texts = _file(environment.get(CONFIG, ""), mistakes)
    for setting in SETTINGS:
        text = _from_environment(setting, environment, mistakes)
        if text is not None:
            texts[setting.name] = text
    values: dict[str, Any] = {}
    for setting in SETTINGS:
        text = texts.get(setting.name, "") or setting.default
        try:
            values[setting.name] = setting.parse(text) if text else (
                () if setting.parse is _directories else "")
        except ValueError as error:
            shown = "its value is wrong" if setting.secret else f"{text!r} is wrong"
            why = str(error) if str(error).startswith(("expected", "there")) else (
                "expected a number")
            mistakes.append(f"{setting.name}: {shown}: {why}")
    mistakes += _contradictions(values)
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    if not values["AUDIT_DATABASE"]:
        state = environment.get("STATE_DIRECTORY", "").partition(":")[0]
        values["AUDIT_DATABASE"] = str(Path(state, "kube-audit-slack.db"))
    return values, _warnings(environment)


def is_open(bind: str, token: str) -> str:
    """Why listening on this address would let anybody in; empty when it would not."""
    host = bind.rpartition(":")[0].strip("[]")
    if token or not host or bind.startswith("unix:") or _is_loopback(host):
        return ""
    return (f"AUDIT_BIND: {bind} can be reached from other machines and nothing checks who posts: "
            "set AUDIT_TOKEN (or AUDIT_TOKEN_FILE), or listen on 127.0.0.1")


def _file(name: str, mistakes: list[str]) -> dict[str, str]:
    if not name:
        return {}
    try:
        document = tomllib.loads(Path(name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        mistakes.append(f"{CONFIG}: {name}: {error}")
        return {}
    known = {setting.name for setting in SETTINGS}
    texts = {}
    for key, value in document.items():
        if key not in known:
            mistakes.append(f"{CONFIG}: {name}: {key} is no setting; known are "
                            f"{', '.join(sorted(known))}")
        elif isinstance(value, list):
            texts[key] = os.pathsep.join(map(str, value))
        elif isinstance(value, (str, int, float)) and not isinstance(value, bool):
            texts[key] = str(value)
        else:
            mistakes.append(f"{CONFIG}: {name}: {key}: expected a text or a number")
    return texts


def _from_environment(setting: Setting, environment: Mapping[str, str],
                      mistakes: list[str]) -> str | None:
    text, twin = environment.get(setting.name), f"{setting.name}_FILE"
    file = environment.get(twin, "") if setting.secret else ""
    if not file:
        return text
    if text:
        mistakes.append(f"{setting.name} and {twin} are both set: keep one of them")
        return text
    try:
        found = Path(file).read_text("utf-8").strip()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        mistakes.append(f"{twin}: cannot read {file}: {reason}")
        return None
    if not found:
        mistakes.append(f"{twin}: {file} is empty")
    return found


def _contradictions(values: dict[str, Any]) -> list[str]:
    found = []
    token, channel = values.get("SLACK_TOKEN"), values.get("CHANNEL_ID")
    if values.get("SLACK_WEBHOOK_URL") and token:
        found.append("SLACK_WEBHOOK_URL and SLACK_TOKEN are both set: keep one way to Slack")
    if token and not channel:
        found.append("SLACK_TOKEN is set without CHANNEL_ID: name the channel to post to")
    if channel and not token:
        found.append("CHANNEL_ID is set without SLACK_TOKEN: a webhook URL fixes its channel, "
                     "so remove CHANNEL_ID or use a bot token")
    for name in ("SLACK_TOKEN", "AUDIT_TOKEN", "CHANNEL_ID"):
        text = values.get(name, "")
        if text and not (text.isascii() and text.isprintable() and " " not in text):
            found.append(f"{name}: expected printable ASCII without spaces")
    opened = is_open(values.get("AUDIT_BIND", ""), values.get("AUDIT_TOKEN", ""))
    if opened:
        found.append(opened)
    database = values.get("AUDIT_DATABASE", "")
    if is_postgresql(database):
        if not find_spec("psycopg"):
            found.append("AUDIT_DATABASE: PostgreSQL needs the extra [postgres]: "
                         ".venv/bin/pip install -e '.[postgres]'")
    elif database and not Path(database).absolute().parent.is_dir():
        found.append(f"AUDIT_DATABASE: there is no directory {Path(database).absolute().parent}: "
                     "make it, or name another file")
    return found


def _warnings(environment: Mapping[str, str]) -> list[str]:
    """Names that look like settings and are none: Kubernetes injects such for a Service "audit"."""
    known = {CONFIG} | {setting.name for setting in SETTINGS} | {
        f"{setting.name}_FILE" for setting in SETTINGS if setting.secret}
    return [f"{name} is no setting and is ignored" for name in sorted(environment)
            if name.startswith("AUDIT_") and name not in known
            and not name.startswith(("AUDIT_SERVICE_", "AUDIT_PORT"))]


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
