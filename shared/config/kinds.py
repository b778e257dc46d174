"""How the text of an environment variable becomes a value.

A kind's `parse` gets text that is not empty and raises `ValueError` with what it expected; the
text itself stays out of the message, since it may be a secret put into the wrong variable.
"""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attrs import frozen

from shared.config.secret import Secret

_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off")
_HOST_NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_])?\Z")
_DURATION = re.compile(r"[1-9][0-9]{0,5}(mo|[smhdw])")
_HTTP = re.compile(r"https?://[^\s@/]+(/\S*)?", re.IGNORECASE)
_POSTGRES = re.compile(r"postgres(ql)?://", re.IGNORECASE)


@frozen
class Kind:
    """A type of setting. `label` names it in the documentation."""

    label: str
    parse: Callable[[str], Any]


def _text(raw: str) -> str:
    if not raw.isprintable():
        raise ValueError("text without control characters")
    return raw


def _flag(raw: str) -> bool:
    word = raw.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("`true` or `false`")


def _port(raw: str) -> int:
    number = _int(raw, "a port, 0 to 65535")
    if not 0 <= number <= 65535:
        raise ValueError("a port, 0 to 65535")
    return number


def _host(raw: str) -> str:
    try:
        ipaddress.ip_address(raw)
    except ValueError:
        if not _HOST_NAME.match(raw):
            raise ValueError("an IP address or a host name") from None
    return raw


def _secret(raw: str) -> Secret:
    if raw != raw.strip() or not raw.isprintable():
        raise ValueError("no white space or line break at its ends or within")
    return Secret(raw)


def _postgres(raw: str) -> Secret:
    if not _POSTGRES.match(raw) or raw != raw.strip():
        raise ValueError("a `postgresql://…` URL")
    return Secret(raw)


def _path(raw: str) -> Path:
    return Path(raw).expanduser()


def _root_path(raw: str) -> str:
    path = raw.rstrip("/")
    if path and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", path):
        raise ValueError("a path such as `/gateway`")
    return path


def _verify(raw: str) -> bool | Path:
    try:
        return _flag(raw)
    except ValueError:
        path = _path(raw)
        if not path.is_absolute():
            raise ValueError("`true`, `false` or the absolute path of a certificate file") from None
        return path


def _duration(raw: str) -> str:
    if not _DURATION.fullmatch(raw):
        raise ValueError("a duration such as `30s`, `12h` or `7d`")
    return raw


def _urls(raw: str) -> tuple[str, ...]:
    urls = tuple(part.strip() for part in raw.split(",") if part.strip())
    if not urls or not all(_HTTP.fullmatch(url) for url in urls):
        raise ValueError("one or more `https://…` URLs, separated by commas")
    return urls


def _int(raw: str, expected: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,18}", raw.strip()):
        raise ValueError(expected)
    return int(raw)


def whole(minimum: int, maximum: int = 2**31 - 1) -> Kind:
    """A whole number within bounds."""
    expected = f"a whole number, {minimum} to {maximum}"

    def parse(raw: str) -> int:
        number = _int(raw, expected)
        if not minimum <= number <= maximum:
            raise ValueError(expected)
        return number

    return Kind("whole number", parse)


def number(minimum: float, maximum: float) -> Kind:
    """A finite number within bounds."""
    expected = f"a number, {minimum:g} to {maximum:g}"

    def parse(raw: str) -> float:
        try:
            value = float(raw)
        except ValueError:
            raise ValueError(expected) from None
        if not math.isfinite(value) or not minimum <= value <= maximum:
            raise ValueError(expected)
        return value

    return Kind("number", parse)


def one_of(*words: str, upper: bool = False) -> Kind:
    """One of a few words, in any case."""
    label = " | ".join(f"`{word}`" for word in words)

    def parse(raw: str) -> str:
        word = raw.strip().upper() if upper else raw.strip().lower()
        if word not in words:
            raise ValueError(f"one of {label}")
        return word

    return Kind(label, parse)


TEXT = Kind("text", _text)
FLAG = Kind("true/false", _flag)
PORT = Kind("port", _port)
HOST = Kind("host", _host)
SECRET = Kind("secret", _secret)
POSTGRES = Kind("secret URL", _postgres)
PATH = Kind("path", _path)
ROOT_PATH = Kind("URL path", _root_path)
DURATION = Kind("duration", _duration)
URLS = Kind("URLs", _urls)
VERIFY = Kind("true/false or path", _verify)
