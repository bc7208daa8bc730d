"""What every sink promises."""

from enum import Enum
from typing import Any, Protocol

Message = dict[str, Any]


class Fault(Enum):
    """What a failed delivery means for the next attempt."""

    PERMANENT = "permanent"          # this message will never be taken as it is
    CONFIGURATION = "configuration"  # no message will be, until an operator changes something
    TRANSIENT = "transient"          # the same message may well be taken later


class DeliveryError(Exception):
    """A message was not delivered, or nobody can tell.

    fault: see Fault; reason: a fixed word to count by; text: a sentence without credentials;
    retry_after: seconds that the destination asked for; ambiguous: it may have been taken.
    """

    def __init__(self, fault: Fault, reason: str, text: str, retry_after: float | None = None,
                 ambiguous: bool = False) -> None:
        super().__init__(text)
        self.fault = fault
        self.reason = reason
        self.retry_after = retry_after
        self.ambiguous = ambiguous


class Sink(Protocol):
    """A destination for messages."""

    name: str

    def post(self, message: Message) -> str:
        """Post one message; the destination's own reference to it. Raises DeliveryError."""
