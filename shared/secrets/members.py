"""Secrets inside of JSON members: which they are, sealing, opening and masking them.

A secret is a text whose own name, or that of a mapping around it, is a secret's (`api_key`,
`aws_secret_access_key`, …), and every value of `extra_headers`. A reference to a variable
(`os.environ/NAME`) is none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from attrs import frozen

from shared.config.secret import MASK
from shared.secrets.sealing import Place, Sealer, is_sealed
from shared.telemetry.redact import is_secret

_HEADERS = "extra_headers"
_REFERENCE = "os.environ/"

Names = Callable[[str], bool]


def secret_names(name: str) -> bool:
    """Whether what stands under a name is secret."""
    return name == _HEADERS or is_secret(name)


def all_names(name: str) -> bool:
    """For members of which every text is to be sealed."""
    del name
    return True


def _setting_names(name: str) -> bool:
    """The same for settings, where headers may be secrets too."""
    return name == "headers" or is_secret(name)


@frozen
class Members:
    """The members of one row's field, e.g. `litellm_params` of a model."""

    kind: str
    id: str
    field: str
    secret: Names = secret_names

    def seal(self, members: Mapping[str, Any], sealer: Callable[[], Sealer]) -> dict[str, Any]:
        """With every secret as an envelope. `sealer` is asked for only if there is one; raises
        what it raises. What is an envelope already stays."""

        def sealed(text: str, path: str, *, secret: bool) -> str:
            if not secret or is_sealed(text) or text.startswith(_REFERENCE):
                return text
            return sealer().seal(text, self._place(path))

        return self._walk(members, sealed)

    def open(self, members: Mapping[str, Any], sealer: Callable[[], Sealer]) -> dict[str, Any]:
        """With every envelope opened. Raises `SealBroken`."""

        def opened(text: str, path: str, *, secret: bool) -> str:
            del secret
            return sealer().open(text, self._place(path)) if is_sealed(text) else text

        return self._walk(members, opened)

    def masked(self, members: Mapping[str, Any]) -> dict[str, Any]:
        """With a mask for every secret and every envelope."""

        def mask(text: str, path: str, *, secret: bool) -> str:
            del path
            hidden = is_sealed(text) or (secret and not text.startswith(_REFERENCE))
            return MASK if hidden else text

        return self._walk(members, mask)

    def _walk(self, members: Mapping[str, Any], change: _Change) -> dict[str, Any]:
        return {
            name: _changed(value, f"{self.field}.{name}", self.secret(name), self.secret, change)
            for name, value in members.items()
        }

    def _place(self, path: str) -> Place:
        return Place(self.kind, self.id, path)


def model_params(model_id: str) -> Members:
    """`litellm_params` of a model: only secrets are sealed."""
    return Members("model", model_id, "litellm_params")


def credential_values(credential_id: str) -> Members:
    """`credential_values` of a credential: every text is sealed."""
    return Members("credential", credential_id, "credential_values", all_names)


def config_section(section: str) -> Members:
    """The members of a section of the configuration: of variables every text is sealed."""
    variables = section == "environment_variables"
    return Members("config", section, section, all_names if variables else _setting_names)


def paths_of(value: Any, wanted: Callable[[str], bool], path: str) -> list[str]:
    """The dotted paths of the texts that are wanted."""
    if isinstance(value, str):
        return [path] if wanted(value) else []
    if isinstance(value, dict):
        return [
            found
            for name, inner in value.items()
            for found in paths_of(inner, wanted, f"{path}.{name}")
        ]
    if isinstance(value, list):
        return [
            found
            for place, inner in enumerate(value)
            for found in paths_of(inner, wanted, f"{path}[{place}]")
        ]
    return []


def unmasked(value: Any, stored: Any) -> Any:
    """A value that came back from a masked answer, with what is stored where a mask stands.

    A mask where nothing is stored stays.
    """
    if value == MASK and isinstance(stored, str):
        return stored
    if isinstance(value, dict) and isinstance(stored, dict):
        return {name: unmasked(inner, stored.get(name)) for name, inner in value.items()}
    if isinstance(value, list) and isinstance(stored, list) and len(value) == len(stored):
        return [unmasked(inner, other) for inner, other in zip(value, stored, strict=True)]
    return value


_Change = Callable[..., str]


def _changed(value: Any, path: str, secret: bool, names: Names, change: _Change) -> Any:
    if isinstance(value, str):
        return change(value, path, secret=secret)
    if isinstance(value, dict):
        return {
            name: _changed(inner, f"{path}.{name}", secret or names(name), names, change)
            for name, inner in value.items()
        }
    if isinstance(value, list):
        return [
            _changed(inner, f"{path}[{place}]", secret, names, change)
            for place, inner in enumerate(value)
        ]
    return value
