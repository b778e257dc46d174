"""What aiohttp logs of requests that it could not read: one quiet line each.

It takes them for errors of the server: with a traceback and with the bytes that it stumbled over,
in which there may be keys and prompts.
"""

from __future__ import annotations

import logging

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

LOGGER = "aiohttp.server"

_CLIENTS = (HttpProcessingError, web.RequestPayloadError, web.PayloadAccessError)


class ClientFaults(logging.Filter):
    """For the logger that aiohttp's server writes to."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Reword what a client caused; pass on everything else as it is."""
        fault = record.exc_info[1] if record.exc_info else None
        if isinstance(fault, _CLIENTS):
            record.levelno, record.levelname = logging.INFO, "INFO"
            record.msg, record.args = "unreadable_request: %s", (type(fault).__name__,)
            record.exc_info = record.exc_text = None
        return True


def install() -> None:
    """Once per process, before the first request."""
    logger = logging.getLogger(LOGGER)
    if not any(isinstance(each, ClientFaults) for each in logger.filters):
        logger.addFilter(ClientFaults())
