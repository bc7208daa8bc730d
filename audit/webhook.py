"""The blueprint that API servers post to: authenticate, bound, decode, answer."""

import hmac
import re
from typing import Any

from flask import Blueprint, Response, current_app, jsonify, request
from werkzeug.exceptions import ClientDisconnected, HTTPException, RequestEntityTooLarge

from audit.dispatcher import Dispatcher
from audit.event import MalformedBody
from audit.outbox import StoreError

blueprint = Blueprint("webhook", __name__)

CLUSTER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
CHUNK = 2**20
RETRY_AFTER = "10"


class Receiver:
    """What the blueprint needs to know.

    token: the bearer token that is demanded, empty for none; cluster: who posts to /webhook;
    max_body: bytes.
    """

    def __init__(self, dispatcher: Dispatcher, token: str, cluster: str, max_body: int) -> None:
        self.dispatcher = dispatcher
        self.token = token.encode()
        self.cluster = cluster
        self.max_body = max_body


def receiver() -> Receiver:
    """The receiver of the current application."""
    found: Receiver = current_app.extensions["audit"]
    return found


@blueprint.post("/webhook")
@blueprint.post("/webhook/<cluster>")
def webhook(cluster: str = "") -> tuple[Response, int] | Response:
    """Take one EventList and answer with counts.

    Any 2xx means that every alert of it is on disk. Source: Kubernetes, "Auditing", webhook
    backend: every other answer makes the API server send the same bytes again, five times in all.
    """
    here = receiver()
    if not _authorized(here):
        here.dispatcher.refused_login(request.remote_addr or "an unknown address")
        answer = error(401, "the request needs the header 'Authorization: Bearer <token>' with "
                            "the token that AUDIT_TOKEN holds")
        answer.headers["WWW-Authenticate"] = 'Bearer realm="kube-audit-slack"'
        return answer
    cluster = cluster or here.cluster
    if not CLUSTER.fullmatch(cluster):
        return error(400, "the cluster in the path may have letters, digits, '.', '_' and '-', "
                          "at most 100 of them")
    try:
        body = _body(here.max_body)
    except RequestEntityTooLarge:
        here.dispatcher.too_large(cluster, here.max_body)
        return error(413, f"the body is larger than AUDIT_MAX_BODY ({here.max_body} bytes): raise "
                          "it, or lower --audit-webhook-batch-max-size of the API server")
    try:
        return jsonify(here.dispatcher.accept(body, cluster))
    except MalformedBody as fault:
        here.dispatcher.refuse(body, cluster, str(fault))
        return error(400, str(fault))
    except StoreError as fault:
        answer = error(503, str(fault))
        answer.headers["Retry-After"] = RETRY_AFTER
        return answer


@blueprint.get("/healthz")
def healthz() -> Response:
    """Whether the process is alive."""
    return jsonify(status="ok")


@blueprint.get("/readyz")
def readyz() -> Response:
    """Whether events can be stored; a destination that fails is shown, and is no reason for 503.

    A receiver that is taken out of service while Slack is down loses what it is there for.
    """
    dispatcher = receiver().dispatcher
    name = dispatcher.sink.name
    try:
        dispatcher.outbox.probe()
        state = dispatcher.outbox.destination(name)
        counts = dispatcher.outbox.counts()
    except StoreError as fault:
        return error(503, str(fault))
    shown: dict[str, Any] = {"name": name, "well": not state.failures}
    if state.failures:
        shown |= {"failures": state.failures, "reason": state.reason, "error": state.error}
    return jsonify(status="ok", destination=shown, counts=counts)


def error(status: int, sentence: str, **more: Any) -> Response:
    """The one form of every error: one sentence, as JSON."""
    answer = jsonify(error=sentence, **more)
    answer.status_code = status
    return answer


@blueprint.app_errorhandler(HTTPException)
def failed(fault: HTTPException) -> Response:
    """Flask's own errors in the same form."""
    hint = {404: "there is nothing here: events go to POST /webhook or /webhook/<cluster>",
            405: "events are posted: POST /webhook or /webhook/<cluster>"}
    status = fault.code or 500
    answer = error(status, hint.get(status, fault.description or fault.name))
    answer.headers.extend(header for header in fault.get_headers()
                          if header[0] not in ("Content-Type", "Content-Length"))
    return answer


def _authorized(here: Receiver) -> bool:
    if not here.token:
        return True
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    return hmac.compare_digest(given.strip().encode("utf-8", "replace"),
                               here.token) and scheme.lower() == "bearer"


def _body(limit: int) -> bytearray:
    """The request body, in one buffer that grows: memory stays close to its length.

    Raises RequestEntityTooLarge over the limit, ClientDisconnected when it stops early.
    """
    if (request.content_length or 0) > limit:
        raise RequestEntityTooLarge
    body = bytearray()
    while chunk := request.stream.read(CHUNK):
        body += chunk
        if len(body) > limit:
            raise RequestEntityTooLarge
    if request.content_length is not None and len(body) < request.content_length:
        raise ClientDisconnected
    return body
