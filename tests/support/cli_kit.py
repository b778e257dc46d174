"""The command `meridian` as a process of its own, and an HTTP server that answers as it is told."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import ssl
import struct
import subprocess
import sys
import termios
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from services.admin.cli import main

PROGRAM = Path(sys.executable).with_name("meridian")
CERTIFICATE = Path(__file__).with_name("localhost_cert.pem")
_LONGEST_S = 60


class Ran(NamedTuple):
    """A command that has ended."""

    status: int
    out: str
    err: str

    def json(self) -> Any:
        """The one document that it has printed, after a check that it went well."""
        assert self.status == 0, self.err
        return json.loads(self.out)

    def rows(self) -> list[dict[str, str]]:
        """The cells of a table by heading; no cell may hold a space."""
        assert self.status == 0, self.err
        heading, *lines = self.out.splitlines()
        return [dict(zip(heading.split(), line.split(), strict=True)) for line in lines]


class Runner(ABC):
    """Runs commands with an environment of the test's own."""

    env: dict[str, str]

    @abstractmethod
    def __call__(self, *words: str, stdin: str = "", **env: str) -> Ran:
        """A command to its end."""

    def json(self, *words: str) -> Any:
        """What a command answers to a program."""
        return self(*words, "--json").json()

    def only(self, field: str, *words: str) -> list[str]:
        """One member of the answer, or of each row of a list."""
        ran = self(*words, "--only", field)
        assert ran.status == 0, ran.err
        return ran.out.split()


class Cli(Runner):
    """Each command is a process."""

    def __init__(self, folder: Path, **env: str) -> None:
        self.folder = folder
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), **env}

    def __call__(self, *words: str, stdin: str = "", **env: str) -> Ran:
        """A command to its end."""
        done = subprocess.run(
            [PROGRAM, *words],
            input=stdin,
            env=self.env | env,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=_LONGEST_S,
            check=False,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Ran(done.returncode, done.stdout, done.stderr)

    def start(self, *words: str, **env: str) -> subprocess.Popen[str]:
        """A command that runs while the test goes on."""
        return subprocess.Popen(
            [PROGRAM, *words],
            env=self.env | env,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def on_terminal(self, *words: str, columns: int = 80, **env: str) -> str:
        """All that a command writes to a terminal so wide."""
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        process = subprocess.Popen(
            [PROGRAM, *words],
            env=self.env | {"TERM": "xterm"} | env,
            cwd=self.folder,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        written = b""
        try:
            while part := os.read(ours, 65536):
                written += part
        except OSError:
            # What Linux says when the other end is closed.
            pass
        finally:
            os.close(ours)
            process.wait(_LONGEST_S)
        return written.decode()


class Inside(Runner):
    """Commands run in this process, which is quick. Nothing else is in their environment."""

    def __init__(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        env: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.env = dict(env)

    def __call__(self, *words: str, stdin: str = "", **env: str) -> Ran:
        """A command to its end."""
        with self._monkeypatch.context() as patch:
            for name in list(os.environ):
                patch.delenv(name)
            for name, value in (self.env | env).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            patch.setattr(sys, "argv", ["meridian", *words])
            try:
                status = main()
            except SystemExit as ended:
                status = int(ended.code or 0)
        out, err = self._capsys.readouterr()
        return Ran(status, out, err)


class Asked(NamedTuple):
    """A request that the server got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: Any


Reply = tuple[int, dict[str, str], str]


@contextmanager
def answering(reply: Callable[[Asked], Reply], *, tls: bool = False) -> Iterator[str]:
    """The address of a server that answers each request by a function. With `tls` its certificate
    is signed by nobody but itself."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            data = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name.lower(): value for name, value in self.headers.items()}
            asked = Asked(self.command, self.path, headers, json.loads(data) if data else None)
            status, headers, text = reply(asked)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        do_GET = do_POST = do_PATCH = _answer  # noqa: N815 - names of the standard library

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, CERTIFICATE.with_name("localhost_key.pem"))
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http{'s' if tls else ''}://localhost:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
