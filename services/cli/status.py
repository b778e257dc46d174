"""Exit statuses of the command `meridian`, and the errors that end a command with one of them.

CommandError
├─ Misused        2  the command or a setting is wrong; nothing was asked
├─ Refused        1  the proxy said no, or a check failed
└─ Unreachable    3  the proxy cannot be reached, or did not answer in time
"""

from __future__ import annotations

DONE = 0
FAILED = 1
WRONG = 2
UNREACHABLE = 3
INTERRUPTED = 130


class CommandError(Exception):
    """Ends a command. The text is for people, in one line, and holds no secret."""

    status = FAILED


class Misused(CommandError):
    """The command or a setting is wrong."""

    status = WRONG


class Refused(CommandError):
    """The proxy said no. `http_status` is 0 where it said so by what it answered."""

    def __init__(self, text: str, http_status: int = 0, retry_after_s: float | None = None) -> None:
        super().__init__(text)
        self.http_status = http_status
        self.retry_after_s = retry_after_s


class Unreachable(CommandError):
    """No answer came. `in_doubt` is whether the request may have been carried out."""

    status = UNREACHABLE

    def __init__(self, text: str, *, in_doubt: bool = False) -> None:
        super().__init__(text)
        self.in_doubt = in_doubt
