"""When a setting that the database holds is in force.

Settings are taken over by every instance within a second, but for those that a process is built
around. What it needs before it can read the database at all is not taken from there.
"""

from __future__ import annotations

from enum import StrEnum

from shared.config.startup import FILE_SETTINGS
from shared.config.variables import VARIABLES

_AT_START = frozenset(
    {
        "general_settings.always_include_stream_usage",
        "general_settings.litellm_key_header_name",
        "general_settings.maximum_spend_logs_retention_period",
        "general_settings.maximum_spend_logs_retention_interval",
        "litellm_settings.timezone",
        "litellm_settings.budget_reset_time",
    }
)
# Who is let in is for those to say who run the process.
_OF_THE_FILE = frozenset(
    {*FILE_SETTINGS, "general_settings.enable_jwt_auth", "general_settings.litellm_jwtauth"}
)
_PROCESS_VARIABLES = frozenset(variable.name for variable in VARIABLES)


class Effect(StrEnum):
    """When a stored setting is in force. The values stand in the documentation."""

    AT_ONCE = "at once"
    AT_START = "at the next start"
    NEVER = "not from there"


def effect_of(section: str, name: str) -> Effect:
    """When what the database says of a setting is in force."""
    path = f"{section}.{name}"
    if path in _OF_THE_FILE or (section == "environment_variables" and name in _PROCESS_VARIABLES):
        return Effect.NEVER
    return Effect.AT_START if path in _AT_START else Effect.AT_ONCE


def at_start() -> frozenset[str]:
    """The dotted names of the settings that a process reads from the database at its start."""
    return _AT_START
