"""Slack, by an incoming webhook or by the Web API with a bot token."""

from typing import Any

import requests
from requests.auth import AuthBase
from urllib3.exceptions import NewConnectionError
from urllib3.util import Retry

from audit.sinks.base import DeliveryError, Fault, Message

# Seconds to connect, and to wait for the answer. The first is just above TCP's retransmission.
TIMEOUT = (3.05, 10.0)
PERMANENT = {
    "invalid_blocks", "no_text", "msg_too_long", "msg_blocks_too_long", "invalid_payload",
    "invalid_blocks_format", "invalid_attachments", "too_many_attachments",
    "invalid_arguments", "invalid_json", "invalid_form_data", "json_not_object",
    "metadata_too_large", "markdown_text_conflict",
}
TRANSIENT = {
    "internal_error", "fatal_error", "ratelimited", "rate_limited", "rollup_error",
    "service_unavailable", "request_timeout", "timeout", "team_added_to_org",
    "message_limit_exceeded",
}
_WORD_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_")


class _Bearer(AuthBase):
    """A token as the only credential: without one, requests would look into ~/.netrc."""

    def __init__(self, token: str = "") -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._token:
            request.headers["Authorization"] = f"Bearer {self._token}"
        return request


class SlackWebhook:
    """An incoming webhook: its URL is the credential and fixes the channel."""

    name = "slack-webhook"

    def __init__(self, url: str) -> None:
        self._url = url
        self._session = requests.Session()

    def post(self, message: Message) -> str:
        """See Sink.post. Source: Slack, "Sending messages using incoming webhooks"."""
        response = _post(self._session, self._url, message, _Bearer())
        answer = response.text[:200].strip()
        if response.status_code == 200 and answer == "ok":
            return ""
        raise _refusal(response, _word(answer))


class SlackChannel:
    """A channel that a bot token posts to.

    api: base URL of the Web API; token: xoxb-…; channel: its ID.
    """

    def __init__(self, api: str, token: str, channel: str) -> None:
        self.name = f"slack-channel-{channel}"
        self._url = f"{api.rstrip('/')}/chat.postMessage"
        self._bearer = _Bearer(token)
        self._channel = channel
        self._session = requests.Session()

    def post(self, message: Message) -> str:
        """See Sink.post. Source: Slack, method chat.postMessage."""
        # A preview of a link would show what the linked page likes.
        plain = {"channel": self._channel, "unfurl_links": False, "unfurl_media": False}
        response = _post(self._session, self._url, {**message, **plain}, self._bearer)
        answer = _object(response)
        if response.status_code == 200 and answer.get("ok") is True:
            return f"{answer.get('channel', '')} {answer.get('ts', '')}".strip()
        raise _refusal(response, _word(answer.get("error")))


def _post(session: requests.Session, url: str, message: Message,
          bearer: _Bearer) -> requests.Response:
    """The answer to a post. The texts of requests' own errors hold the URL and are not used."""
    try:
        return session.post(
            url, json=message, auth=bearer, timeout=TIMEOUT, allow_redirects=False,
            headers={"Content-Type": "application/json; charset=utf-8"})
    except requests.exceptions.ConnectTimeout:
        raise DeliveryError(Fault.TRANSIENT, "connect_timeout",
                            f"no connection to Slack within {TIMEOUT[0]:g} s") from None
    except requests.exceptions.SSLError:
        raise DeliveryError(
            Fault.CONFIGURATION, "tls", "Slack's certificate was refused; check the clock, the "
            "proxy and the CA bundle (REQUESTS_CA_BUNDLE)") from None
    except requests.exceptions.Timeout:
        raise DeliveryError(Fault.TRANSIENT, "timeout", f"no answer from Slack within "
                            f"{TIMEOUT[1]:g} s", ambiguous=True) from None
    except requests.exceptions.ConnectionError as error:
        cause = getattr(error.args[0] if error.args else None, "reason", None)
        refused = isinstance(cause, NewConnectionError)
        raise DeliveryError(
            Fault.TRANSIENT, "connection",
            "no connection to Slack" if refused else "the connection to Slack broke",
            ambiguous=not refused) from None
    except requests.exceptions.RequestException as error:
        raise DeliveryError(Fault.TRANSIENT, "request", f"the post to Slack failed: "
                            f"{type(error).__name__}", ambiguous=True) from None


def _refusal(response: requests.Response, word: str) -> DeliveryError:
    """What an answer that is no success means.

    Source: Slack, "Handling errors" of incoming webhooks; errors of chat.postMessage; rate limits.
    """
    status = response.status_code
    text = f"Slack answered {status}" + (f" {word}" if word else "")
    if status == 429 or word in ("ratelimited", "rate_limited"):
        return DeliveryError(Fault.TRANSIENT, "ratelimited", text, _retry_after(response) or 1.0)
    if word in TRANSIENT or status >= 500:
        return DeliveryError(Fault.TRANSIENT, word or "server_error", text, _retry_after(response))
    if word in PERMANENT or (status in (400, 413) and not word.endswith("_not_found")):
        return DeliveryError(Fault.PERMANENT, word or "bad_request", text)
    hint = {"not_in_channel": "invite the bot to the channel",
            "channel_not_found": "check CHANNEL_ID, and invite the bot to a private channel",
            "missing_scope": "the bot needs the scope chat:write"}.get(
                word, "check the Slack settings" if word else
                "is this Slack? check the URL and the proxy")
    return DeliveryError(Fault.CONFIGURATION, word or "unexpected_answer", f"{text}; {hint}")


def _retry_after(response: requests.Response) -> float | None:
    value = response.headers.get("Retry-After")
    try:
        return float(Retry().parse_retry_after(value)) if value else None
    except Exception:  # urllib3 raises its own InvalidHeader for what is neither form
        return None


def _object(response: requests.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _word(answer: Any) -> str:
    """Slack's error word; whatever else stands there does not go into a log."""
    known = isinstance(answer, str) and len(answer) <= 60 and _WORD_CHARACTERS.issuperset(answer)
    return answer if known else ""
