"""kube-audit-slack: Kubernetes audit events become Slack messages, and none is lost."""

import atexit
import logging
import os
from collections.abc import Mapping
from typing import Any

from flask import Flask

from audit import config, rules, webhook
from audit.database import StoreError, open_database
from audit.dispatcher import Dispatcher
from audit.outbox import Outbox
from audit.rules import LEVELS
from audit.sinks.base import Sink
from audit.sinks.console import Console
from audit.sinks.slack import SlackChannel, SlackWebhook
from audit.template import Messages
from audit.webhook import Receiver

log = logging.getLogger(__name__)

# The process that forks gunicorn's workers, as gunicorn.conf.py says. With --preload it imports
# the application as well, but may not run a thread: what the thread holds at a fork, SQLite's own
# locks among it, would stay locked in the worker.
arbiter: int | None = None


def create_app(environment: Mapping[str, str] = os.environ) -> Flask:
    """The whole service, wired and not started.

    environment: the settings. Raises ConfigError and RuleError with every mistake.
    """
    settings, warnings = config.load(environment)
    for warning in warnings:
        log.warning("%s", warning)
    outbox = Outbox(open_database(settings["AUDIT_DATABASE"]))
    dispatcher = Dispatcher(
        rules.load(settings["AUDIT_RULES"]), outbox, Messages(), choose_sink(settings),
        lowest=LEVELS.index(settings["AUDIT_LEVEL"]), budget=settings["AUDIT_DELIVERY_BUDGET"],
        retention=settings["AUDIT_RETENTION"] * 86400)
    try:
        outbox.probe()
    except StoreError as error:
        # It may be full for now; a service that does not start loses what it could still tell.
        log.error("%s. Until then alerts are posted without being stored", error)
    outbox.database.close()
    app = Flask(__name__, static_folder=None)
    app.extensions["audit"] = Receiver(dispatcher, settings["AUDIT_TOKEN"],
                                       settings["AUDIT_CLUSTER"], settings["AUDIT_MAX_BODY"])
    app.register_blueprint(webhook.blueprint)
    return app


def start(app: Flask) -> None:
    """Start what works beside the requests, and see that it ends well when the process ends."""
    dispatcher = app.extensions["audit"].dispatcher
    if arbiter == os.getpid():
        os.register_at_fork(after_in_child=dispatcher.start)
    else:
        dispatcher.start()
    atexit.register(dispatcher.stop)


def choose_sink(settings: Mapping[str, Any]) -> Sink:
    """Slack where it is configured, else the terminal."""
    if settings["SLACK_WEBHOOK_URL"]:
        return SlackWebhook(settings["SLACK_WEBHOOK_URL"])
    if settings["SLACK_TOKEN"]:
        return SlackChannel(settings["SLACK_API_URL"], settings["SLACK_TOKEN"],
                            settings["CHANNEL_ID"])
    return Console()
