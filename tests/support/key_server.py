"""A sign-in provider's keys over HTTP from a thread, for processes that outlive a test's loop."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.support.jwks_server import Signer


class KeyServer:
    """What is served now. With `away` set it fails."""

    def __init__(self, *signers: Signer) -> None:
        self.keys: list[dict[str, Any]] = [signer.jwk() for signer in signers]
        self.away = False
        self.asked = 0
        self.url = ""

    def add(self, signer: Signer) -> None:
        """One key more."""
        self.keys = [*self.keys, signer.jwk()]


@contextmanager
def key_server(*signers: Signer) -> Iterator[KeyServer]:
    """A provider with the public keys of some signers."""
    served = KeyServer(*signers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.asked += 1
            body = json.dumps({"keys": served.keys}).encode()
            self.send_response(500 if served.away else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's own name
            del format, args

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/jwks"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
