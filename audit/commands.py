"""The command `kube-audit-slack`."""

import gzip
import json
import logging
import os
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import click

from audit import config, rules
from audit.alert import PENDING, SET_ASIDE, Alert, alerts_of
from audit.database import StoreError, is_postgresql, open_database
from audit.event import Event, MalformedBody, Rejected, decode, parse_event
from audit.outbox import Outbox
from audit.rules import LEVELS
from audit.template import summary


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kube-audit-slack")
def main() -> None:
    """Audit events of Kubernetes API servers become Slack messages.

    The service itself is started by `make run`, or `gunicorn app:app`. These commands read the
    same settings (environment, AUDIT_CONFIG) and the same store.
    """
    logging.basicConfig(format="%(levelname)s %(message)s")


def settings() -> dict[str, Any]:
    """The settings; mistakes end the command with a line for each."""
    try:
        return config.load(os.environ)[0]
    except config.ConfigError as mistakes:
        raise click.ClickException(str(mistakes)) from None


def outbox() -> Outbox:
    """The outbox; one that is not there yet ends the command."""
    found = settings()
    database = found["AUDIT_DATABASE"]
    if not is_postgresql(database) and not Path(database).exists():
        raise click.ClickException(f"there is no store at {database}: the service makes it; set "
                                   "AUDIT_DATABASE to the one that it uses")
    store = open_database(database)
    click.get_current_context().call_on_close(store.close)
    return Outbox(store)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
def alerts(as_json: bool) -> None:
    """List the alerts in the store, oldest first.

    Example: kube-audit-slack alerts --json | jq 'select(.state == "pending")'
    """
    try:
        for alert in outbox().alerts():
            if as_json:
                click.echo(json.dumps(_fields(alert) | {
                    "state": alert.state, "message": alert.message}))
            else:
                click.echo(_line(alert))
    except StoreError as error:
        raise click.ClickException(str(error)) from None


@main.group("outbox")
def outbox_group() -> None:
    """Look at what waits to be told, and what was set aside."""


@outbox_group.command("list")
def outbox_list() -> None:
    """List the alerts that wait, and those that Slack would not take.

    Example: kube-audit-slack outbox list
    """
    try:
        found = 0
        for found, alert in enumerate(outbox().alerts((PENDING, SET_ASIDE)), 1):
            click.echo(_line(alert) + (f"\n{'':>8}{alert.error}" if alert.error else ""))
        if not found:
            click.echo("Nothing waits and nothing was set aside.")
    except StoreError as error:
        raise click.ClickException(str(error)) from None


@outbox_group.command("requeue")
@click.argument("ids", nargs=-1, type=int)
@click.option("--all", "every", is_flag=True, help="Requeue all that was set aside.")
def outbox_requeue(ids: tuple[int, ...], every: bool) -> None:
    """Send alerts again that were set aside, by their numbers in `outbox list`.

    Example: kube-audit-slack outbox requeue 17 18
    """
    if bool(ids) == every:
        raise click.UsageError("name the alerts, or give --all")
    try:
        count = outbox().requeue(None if every else ids, time.time())
    except StoreError as error:
        raise click.ClickException(str(error)) from None
    click.echo(f"{count} alert{'s' if count != 1 else ''} will be sent again.")


@main.command()
@click.argument("files", nargs=-1, required=True,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
@click.option("--all", "every", is_flag=True, help="Rules that are off by default, too.")
@click.option("--rules", "directories", multiple=True, help="Directories of further rules.",
              type=click.Path(exists=True, file_okay=False, path_type=Path))
def replay(files: tuple[Path, ...], as_json: bool, every: bool,
           directories: tuple[Path, ...]) -> None:
    """Show which alerts recorded events would have raised; nothing is stored or sent.

    FILE: an EventList, or one EventList or event a line as the API server's log has them, plain
    or gzip.

    Example: kube-audit-slack replay /var/log/kubernetes/audit.log*
    """
    found = settings()
    try:
        loaded = rules.load((*found["AUDIT_RULES"], *directories))
    except rules.RuleError as mistakes:
        raise click.ClickException(str(mistakes)) from None
    if every:
        loaded = loaded.all_enabled()
    lowest = LEVELS.index(found["AUDIT_LEVEL"])
    seen: set[tuple[str, str]] = set()
    for file in files:
        for item in _events(file, found["AUDIT_CLUSTER"]):
            if isinstance(item, Rejected):
                click.echo(f"{file}: {item.reason}", err=True)
                continue
            for alert in alerts_of(item, loaded.match(item), lowest):
                if alert.key in seen:
                    continue
                seen.add(alert.key)
                if as_json:
                    click.echo(json.dumps(_fields(alert) | {"posted": alert.state == PENDING}))
                else:
                    click.echo(_line(alert))


def _events(file: Path, cluster: str) -> Iterator[Event | Rejected]:
    """The events of a file, line by line unless it is one document."""
    with (gzip.open if file.suffix == ".gz" else open)(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            if number == 1 and not line.rstrip().endswith(b"}"):
                line += stream.read()
            try:
                # Nothing of a list counts before its end was seen.
                yield from list(decode(line, cluster))
            except MalformedBody as error:
                item = parse_event(line.strip(), cluster)
                yield item if isinstance(item, Event) else Rejected(
                    f"line {number} is neither an event nor an EventList: {error}", line)


def _fields(alert: Alert) -> dict[str, Any]:
    raw = alert.event.raw if alert.event else {}
    return {"cluster": alert.cluster, "auditID": raw.get("auditID"),
            "requestReceivedTimestamp": raw.get("requestReceivedTimestamp"),
            "rule": alert.rule, "level": alert.level, "covers": list(alert.about["covers"]),
            "sentence": summary([alert])}


def _line(alert: Alert) -> str:
    raw = alert.event.raw if alert.event else {}
    when = raw.get("requestReceivedTimestamp") or datetime.fromtimestamp(
        alert.stored_at, timezone.utc).isoformat()
    number = f"{alert.id:>6}  " if alert.id else ""
    state = f"{alert.state:<9} " if alert.id else ""
    return (f"{number}{when[:19]}  {state}{alert.level:<8} {alert.cluster}  {alert.rule}: "
            f"{summary([alert])}")


if __name__ == "__main__":
    main()
