"""The terminal as a sink: a message as it would read in Slack."""

import html
import re
import sys
from typing import TextIO

from audit.sinks.base import DeliveryError, Fault, Message

EMOJI = {":rotating_light:": "🚨", ":red_circle:": "🔴", ":large_orange_circle:": "🟠",
         ":large_yellow_circle:": "🟡", ":white_circle:": "⚪"}
WIDTH = 78

_DATE = re.compile(r"<!date\^[^|>]*\|([^>]*)>")
_LINK = re.compile(r"<([^|>]*)\|([^>]*)>")
_BOLD = re.compile(r"(?<![\w`])\*([^*\n]+)\*")


class Console:
    """Writes messages to a stream, in colour where that is a terminal."""

    name = "console"

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._colour = self._stream.isatty()

    def post(self, message: Message) -> str:
        """See Sink.post."""
        try:
            self._stream.write(self._written(message) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            raise DeliveryError(Fault.TRANSIENT, "closed", "the terminal takes no text") from None
        return ""

    def _written(self, message: Message) -> str:
        lines = ["─" * WIDTH]
        bars = [("", message.get("blocks", []))]
        bars += [("▌ ", part.get("blocks", [])) for part in message.get("attachments", [])]
        for bar, blocks in bars:
            for block in blocks:
                lines += [bar + line for line in self._block(block)]
        if len(lines) == 1:
            lines.append(self._text(message.get("text", "")))
        return "\n".join(lines)

    def _block(self, block: Message) -> list[str]:
        if block["type"] == "header":
            return [self._bold(self._text(block["text"]["text"]))]
        if block["type"] == "context":
            return [" · ".join(self._text(part["text"]) for part in block["elements"])]
        lines = self._text(block["text"]["text"]).split("\n") if "text" in block else []
        for part in block.get("fields", []):
            name, *rest = self._text(part["text"]).split("\n")
            lines.append(f"{name:<{17 if self._colour else 9}} {'  '.join(rest)}")
        return lines

    def _text(self, mrkdwn: str) -> str:
        for short, emoji in EMOJI.items():
            mrkdwn = mrkdwn.replace(short, emoji)
        mrkdwn = _DATE.sub(r"\1", mrkdwn)
        mrkdwn = _LINK.sub(r"\2 \1", mrkdwn)
        mrkdwn = _BOLD.sub(lambda found: self._bold(found[1]), mrkdwn)
        return html.unescape(mrkdwn)

    def _bold(self, text: str) -> str:
        return f"\033[1m{text}\033[0m" if self._colour else text
