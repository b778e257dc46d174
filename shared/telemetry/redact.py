"""Keeps secrets out of whatever is written: by the name of a field, by shape, by value.

Works on finished values (strings, numbers, lists, mappings) and returns only such, so that
nothing with a `repr` of its own gets past. Better one word too many masked than one key shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

MASK = "[redacted]"

_DEEPEST = 8
_LONGEST_TEXT = 32_768
_MOST_ITEMS = 500
_SHORTEST_SECRET = 6
_LARGEST = 2**63 - 1

# Names whose values are secrets. Counts such as `prompt_tokens` are numbers and stay.
_SECRET_NAME = re.compile(
    r"(?:^|[^a-z])(?:keys?|secrets?|passwords?|passwd|passphrase|authorization|tokens?|dsn"
    r"|credentials?|cookies?|bearer|signature|salt)$|secret|password|api_?key|authorization"
    r"|database_?url|private_?key|access_?key"
)
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Names that end like a secret's and are none: hashes' beginnings and public identifiers.
_PUBLIC_NAMES = frozenset({"model_key", "sort_key", "dedup_key"})

# All patterns take time linear in the text: repeats are bounded, or begin where no other could.
_SHAPES = re.compile(
    "|".join(
        (
            r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]{0,30}KEY-----|$)",
            r"(?<![A-Za-z0-9])sk-[A-Za-z0-9_\-]{3,}",
            r"sk-[A-Za-z0-9_\-]{20,}",
            r"(?i:\bbearer\s{1,4})(?!(?i:token|auth|key|scheme|header)\w*\b)[^\s\"',;\\]+",
            r"(?i:\bbasic\s{1,4})(?=[a-z+/]*[0-9A-Z=])[A-Za-z0-9+/]{6,}={0,2}",
            r"AIza[A-Za-z0-9_\-]{16,}",
            r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}",
            r"\b(?:xai|pplx|nvapi|glpat|whsec)-[A-Za-z0-9_\-]{8,}",
            r"\bxox[a-z]-[A-Za-z0-9\-]{8,}",
            r"(?<![A-Za-z0-9])(?:gsk|fw|hf|r8|gh[posu]|github_pat|[rsp]k_live)_[A-Za-z0-9_]{8,}",
            r"(?<![A-Za-z0-9_\-])eyJ[A-Za-z0-9_\-]{5,}\.[A-Za-z0-9_\-]{5,}(?:\.[A-Za-z0-9_\-]*)?",
        )
    )
)
# The password of a URL's user part; it may itself hold any of the delimiters but a space.
_URL_PASSWORD = re.compile(
    r"(?P<user>\b[a-zA-Z][a-zA-Z0-9+.\-]{1,20}://[^\s:/@\"']{0,128}):[^\s\"'<>]{1,256}@"
)
# A name, what binds it to a value, and the value: quoted up to its own quote, else up to a space.
_NAMED = re.compile(
    r"(?P<name>(?:api[_-]?key|[_-]key|secret|passwd|password|passphrase|authorization|token|dsn"
    r"|cookie|credentials?|\bsig)\\{0,3}[\"']?\s{0,4}(?:=>|[:=])\s{0,4}b?)"
    r"(?:(?P<quote>\\{0,3}[\"']).{1,512}?(?=(?P=quote))|\\{0,3}[\"']?[^\s\"'&]+)",
    re.IGNORECASE,
)
# `key` alone is too common a word: only long values of a token's alphabet are taken for one.
_BARE_KEY = re.compile(
    r"(?P<name>\bkey\\{0,3}[\"']?\s{0,4}(?:=>|[:=])\s{0,4}b?\\{0,3}[\"']?)"
    r"[A-Za-z0-9_\-+/=.]{16,}",
    re.IGNORECASE,
)


class Redactor:
    """Masks secrets; `known` are the values of this process's own, masked wherever they stand.

    Known values of fewer than 6 characters are not looked for: they would mask ordinary words.
    """

    __slots__ = ("_known",)

    def __init__(self, known: Iterable[str] = ()) -> None:
        self._known = tuple(
            sorted({each for each in known if len(each) >= _SHORTEST_SECRET}, key=len, reverse=True)
        )

    def text(self, text: str) -> str:
        """A text without secrets, cut at 32 Ki characters."""
        if not text.isascii():
            # Lone surrogates, which a client may send, have no UTF-8.
            text = text.encode("utf-8", "backslashreplace").decode()
        for secret in self._known:
            text = text.replace(secret, MASK)
        if len(text) > _LONGEST_TEXT:
            text = text[:_LONGEST_TEXT] + "…"
        text = _URL_PASSWORD.sub(rf"\g<user>:{MASK}@", text)
        text = _SHAPES.sub(MASK, text)
        text = _NAMED.sub(rf"\g<name>\g<quote>{MASK}", text)
        return _BARE_KEY.sub(rf"\g<name>{MASK}", text)

    def value(self, value: Any, depth: int = 0) -> Any:
        """The same of any value; objects become their masked text."""
        match value:
            case None | bool() | float():
                return value
            case int():
                # JSON writers stop at 64 bits.
                return value if -_LARGEST <= value <= _LARGEST else str(value)
            case str():
                return self.text(value)
            case bytes() | bytearray():
                return self.text(value[:_LONGEST_TEXT].decode("utf-8", "replace"))
            case _ if depth >= _DEEPEST:
                return "…"
            case Mapping():
                return self.fields(value, depth + 1)
            case list() | tuple() | set() | frozenset():
                return [self.value(each, depth + 1) for each in tuple(value)[:_MOST_ITEMS]]
            case _:
                return self.text(str(value))

    def fields(self, fields: Mapping[Any, Any], depth: int = 0) -> dict[str, Any]:
        """A mapping whose secret fields are masked by name, the others by value."""
        clean: dict[str, Any] = {}
        for name, value in tuple(fields.items())[:_MOST_ITEMS]:
            name = self.text(str(name))
            clean[name] = _masked(value) if is_secret(name) else self.value(value, depth)
        return clean


def is_secret(name: str) -> bool:
    """Whether a field of that name holds a secret."""
    plain = _CAMEL.sub("_", name).lower().replace("-", "_").replace(".", "_")
    return plain not in _PUBLIC_NAMES and _SECRET_NAME.search(plain) is not None


def _masked(value: Any) -> Any:
    """Numbers under a secret's name are counts or limits; everything else goes."""
    return value if value is None or isinstance(value, bool | int | float) else MASK
