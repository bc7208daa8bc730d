"""A strict Slack on a real socket: incoming webhooks and chat.postMessage/chat.update.

It refuses what Slack refuses, in Slack's words, and notes as a violation whatever may not happen
at all. Run as a program it serves until it is stopped: python -m tests.slack_server PORT [RATE].
"""

import json
import random
import re
import socket
import sys
import threading
import time
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WEBHOOK = "/services/T000/B000/secret-webhook-path"
TOKEN = "xoxb-secret-token"
CHANNEL = "C0123456789"
NOTIFIES = re.compile(r"<!(?:channel|here|everyone|subteam)|<@|<#")
LINK = re.compile(r"<(?!!date\^)([^|>]*)")
OURS = ("https://attack.mitre.org/",)
BURST = 5
EARLY = "posted before Retry-After had passed"


class Slack(ThreadingHTTPServer):
    """The server. faults: what to do with the next requests, in order; fault: with all others.

    A fault is one of: "429" (Retry-After 2), "500", "slow" (answers after `delay` s), "lost"
    (taken, then the connection breaks), "drop" (broken before it is taken), an HTTP status and a
    word such as "410 channel_is_archived", or Slack's error word with a 200, "200 invalid_auth".
    """

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, port: int = 0, *, rate: bool = False) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.rate = rate
        self.fault = ""
        self.faults: deque[str] = deque()
        self.fault_share = 0.0
        self.delay = 2.0
        self.limited_until = 0.0
        self.posts: list[tuple[float, dict[str, Any]]] = []
        self.attempts: list[float] = []
        self.violations: list[str] = []
        self._tokens, self._refilled = float(BURST), time.monotonic()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def webhook(self) -> str:
        return self.url + WEBHOOK

    @property
    def messages(self) -> list[dict[str, Any]]:
        return [payload for _, payload in self.posts]

    def start(self) -> "Slack":
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self.shutdown()
        self.server_close()

    def choose_fault(self) -> str:
        with self._guard:
            self.attempts.append(time.monotonic())
            if self.attempts[-1] < self.limited_until:
                self.violations.append(EARLY)
            if self.faults:
                return self.faults.popleft()
            if self.fault_share and random.random() < self.fault_share:
                return random.choice(["429", "500", "lost", "drop"])
            if self.rate and not self._take():
                return "429"
            return self.fault

    def _take(self) -> bool:
        now = time.monotonic()
        self._tokens = min(float(BURST), self._tokens + now - self._refilled)
        self._refilled = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True

    def take(self, payload: dict[str, Any]) -> None:
        with self._guard:
            self.posts.append((time.monotonic(), payload))

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], (ConnectionError, ValueError)):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: Slack

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        fault = self.server.choose_fault()
        web_api = self.path.startswith("/api/")
        if fault == "drop":
            return self.break_off()
        if fault == "429":
            self.server.limited_until = time.monotonic() + 2.0
            return self.answer(429, "rate_limited", {"Retry-After": "2"})
        if fault == "500":
            return self.answer(500, "rollup_error")
        if fault == "slow":
            time.sleep(self.server.delay)
        elif fault and fault != "lost":
            status, _, word = fault.partition(" ")
            return self.refuse(int(status), word)
        refusal = self.check(body, web_api)
        if refusal:
            return self.refuse(200 if web_api else refusal[0], refusal[1])
        self.server.take(json.loads(body))
        if fault == "lost":
            return self.break_off()
        if web_api:
            return self.answer(200, json.dumps(
                {"ok": True, "channel": CHANNEL, "ts": f"{time.time():.6f}"}))
        return self.answer(200, "ok")

    def check(self, body: bytes, web_api: bool) -> tuple[int, str] | None:
        """Slack's refusal of a request: status and word; None for one that it takes."""
        if web_api:
            if self.path not in ("/api/chat.postMessage", "/api/chat.update"):
                return 404, "unknown_method"
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return 200, "invalid_auth"
        elif self.path != WEBHOOK:
            return 404, "no_service"
        if not self.headers["Content-Type"].startswith("application/json"):
            return 400, "invalid_payload"
        try:
            payload = json.loads(body.decode("utf-8"))
        except ValueError:
            return 400, "invalid_payload"
        if web_api and payload.get("channel") != CHANNEL:
            return 200, "channel_not_found"
        word, violations = check_message(payload)
        self.server.violations += violations + ([f"refused: {word}"] if word else [])
        return (400, word) if word else None

    def refuse(self, status: int, word: str) -> None:
        if status == 200:
            self.answer(200, json.dumps({"ok": False, "error": word}))
        else:
            self.answer(status, word)

    def answer(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def break_off(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)


def check_message(payload: dict[str, Any]) -> tuple[str, list[str]]:
    """Slack's error word for a message that breaks a limit, and what should never be in one.

    Source: Slack, reference of Block Kit and chat.postMessage; the total as observed in
    bolt-js#2509.
    """
    violations = []
    attachments = payload.get("attachments", [])
    blocks = [*payload.get("blocks", []),
              *(block for part in attachments for block in part.get("blocks", []))]
    for text in strings(payload):
        if NOTIFIES.search(text):
            violations.append(f"notifies people: {text[:200]!r}")
        if any(not link.startswith(OURS) for link in LINK.findall(text)):
            violations.append(f"a link that is not ours: {text[:200]!r}")
        if any(character != "\n" and not character.isprintable() for character in text):
            violations.append(f"unprintable: {text[:200]!r}")
    if not payload.get("text") and not blocks:
        return "no_text", violations
    if not payload.get("text"):
        violations.append("no text for notifications")
    if len(payload.get("text", "")) > 40_000:
        return "msg_too_long", violations
    if len(payload.get("blocks", [])) > 50 or len(attachments) > 100:
        return "invalid_blocks", violations
    if not all(check_block(block) for block in blocks):
        return "invalid_blocks", violations
    size = len(json.dumps(payload, ensure_ascii=False))
    if size > 9_000:
        violations.append(f"{size} characters")
    return ("msg_blocks_too_long" if size > 13_000 else ""), violations


def check_block(block: dict[str, Any]) -> bool:
    """Whether Slack takes a block of one of the kinds that are used here."""
    if len(block.get("block_id", "")) > 255:
        return False
    kind = block.get("type")
    if kind == "header":
        return check_text(block.get("text"), 150, ("plain_text",))
    if kind == "section":
        fields = block.get("fields", [])
        if "text" in block and not check_text(block["text"], 3000):
            return False
        if "text" not in block and not fields:
            return False
        return len(fields) <= 10 and all(check_text(field, 2000) for field in fields)
    if kind == "context":
        elements = block.get("elements", [])
        return 1 <= len(elements) <= 10 and all(check_text(part, 3000) for part in elements)
    return kind == "divider"


def check_text(text: Any, longest: int, kinds: tuple[str, ...] = ("plain_text", "mrkdwn")) -> bool:
    return (isinstance(text, dict) and text.get("type") in kinds
            and isinstance(text.get("text"), str) and 1 <= len(text["text"]) <= longest
            and set(text) <= {"type", "text", "emoji", "verbatim"})


def strings(node: Any) -> list[str]:
    """Every text in a message."""
    if isinstance(node, dict):
        return [text for child in node.values() for text in strings(child)]
    if isinstance(node, list):
        return [text for child in node for text in strings(child)]
    return [node] if isinstance(node, str) else []


if __name__ == "__main__":
    Slack(int(sys.argv[1]), rate="RATE" in sys.argv).serve_forever()
