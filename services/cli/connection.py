"""Which proxy to ask, and with which key."""

from __future__ import annotations

import ipaddress
import sys
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from attrs import frozen

from services.cli.kinds import STDIN
from services.cli.status import Misused
from shared.config.client_variables import KEY_VARIABLES, URL_VARIABLES
from shared.config.master_keys import kept_master_key
from shared.config.secret import Secret
from shared.domain.errors import ConfigError

DEFAULT_URL = "http://127.0.0.1:4001"


@frozen
class Connection:
    """A proxy, the caller's key and how long to wait for an answer. `forward` is the proxy server
    that the environment names for such addresses."""

    url: str
    key: Secret
    timeout_s: float
    forward: str | None


def read_connection(options: Namespace, environ: Mapping[str, str]) -> Connection:
    """What the flags say, else the environment, else what local mode uses. Raises `Misused`."""
    url = _url(options.url, environ)
    local = _is_local(url)
    key = _key(options, environ, local=local)
    plain = key.reveal()
    if not plain.isascii() or not plain.isprintable() or " " in plain:
        raise Misused("the key holds characters that no key has")
    forward = None if local else _forward(url)
    return Connection(url, key, options.timeout, forward)


def _url(flag: str | None, environ: Mapping[str, str]) -> str:
    named = next((name for name in URL_VARIABLES if environ.get(name)), None)
    source, url = ("--url", flag) if flag else (named, environ[named] if named else DEFAULT_URL)
    wrong = Misused(f"{source}: write http://HOST:PORT or https://HOST")
    try:
        parts = urlsplit(url or "")
        sound = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise wrong from None
    if not sound or parts.query or parts.fragment or parts.username is not None:
        raise wrong
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}"


def _key(options: Namespace, environ: Mapping[str, str], *, local: bool) -> Secret:
    if options.key is not None:
        if options.key != STDIN:
            raise Misused("--key: only '-', which reads the key from standard input")
        return _named(sys.stdin.readline(), "standard input")
    if options.key_env is not None:
        return _named(environ.get(options.key_env, ""), options.key_env)
    for name in KEY_VARIABLES:
        if environ.get(name):
            return _named(environ[name], name)
    key = _kept(environ) if local else None
    if key is None:
        raise Misused(f"no key: set {KEY_VARIABLES[0]}, or give --key-env NAME or --key -")
    return key


def _named(text: str, source: str) -> Secret:
    if not text.strip():
        raise Misused(f"{source} holds no key")
    return Secret(text.strip())


def _kept(environ: Mapping[str, str]) -> Secret | None:
    """The master key that local mode has made: for this machine only."""
    base = environ.get("XDG_STATE_HOME") or "~/.local/state"
    state_dir = Path(environ.get("MERIDIAN_STATE_DIR") or f"{base}/meridian").expanduser()
    try:
        return kept_master_key(state_dir)
    except (ConfigError, OSError) as error:
        raise Misused(str(error)) from None


def _is_local(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _forward(url: str) -> str | None:
    parts = urlsplit(url)
    return None if proxy_bypass(parts.netloc) else getproxies().get(parts.scheme)
