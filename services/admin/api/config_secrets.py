"""Settings at rest and in answers: secrets sealed, or masked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from shared.config.config_source import Located
from shared.config.secret import MASK
from shared.secrets.members import Members, config_section, paths_of
from shared.secrets.sealing import Sealer

# Names of models, which may look like those of secrets.
_PLAIN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "router_settings": frozenset({"model_group_alias"}),
        "litellm_settings": frozenset({"model_alias_map"}),
    }
)
_FILE_SECRETS = frozenset({"database_url"})


def sealed(
    section: str, members: Mapping[str, Any], sealer: Callable[[], Sealer]
) -> dict[str, Any]:
    """The members of a section as they are stored."""
    return _but_plain(section, members, lambda of, rest: of.seal(rest, sealer))


def masked(section: str, members: Mapping[str, Any]) -> dict[str, Any]:
    """The members of a section as answers show them."""
    return _but_plain(section, members, lambda of, rest: of.masked(rest))


def shown(section: str, name: str, value: Any) -> Any:
    """One member as answers show it."""
    return masked(section, {name: value})[name]


def of_file(section: str, name: str, located: Located) -> Any:
    """What the configuration file says of a setting, as answers show it."""
    value = located.value
    if name in _FILE_SECRETS and isinstance(value, str):
        return value if value.startswith("os.environ/") else MASK
    return shown(section, name, value)


def audited(
    section: str, members: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """A section for the audit log. Secrets look alike there, so it is said which have changed."""
    body = masked(section, members)
    if before is not None:
        old = masked(section, before)
        body["rewritten"] = sorted(
            name
            for name, value in members.items()
            if name in before and value != before[name] and body[name] == old[name]
        )
    return body


def masks(members: Mapping[str, Any], section: str) -> list[str]:
    """The dotted paths of masks."""
    return paths_of(dict(members), lambda text: text == MASK, section)


def _but_plain(
    section: str,
    members: Mapping[str, Any],
    change: Callable[[Members, dict[str, Any]], dict[str, Any]],
) -> dict[str, Any]:
    plain = _PLAIN.get(section, frozenset())
    rest = {name: value for name, value in members.items() if name not in plain}
    changed = change(config_section(section), rest)
    return {name: changed.get(name, value) for name, value in members.items()}
