"""The operator's rules on keys, users and teams, replaced together when settings change."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, evolve, frozen

from services.admin.api.key_policy import KeyRules, read_caps, read_maker_rules, read_settings
from services.admin.api.team_rules import TeamRules, read_team_rules
from services.admin.api.user_rules import UserRules, read_user_rules
from shared.config.gateway_config import GatewayConfig
from shared.limits.windows import parse_reset_time, zone


@frozen(kw_only=True)
class Rules:
    """What holds for requests that come now."""

    keys: KeyRules = KeyRules()
    users: UserRules = UserRules()
    teams: TeamRules = TeamRules()


@define
class RuleBook:
    """The rules in force. `process` has what the environment says of keys, which stays."""

    rules: Rules = Rules()
    process: KeyRules = KeyRules()

    @classmethod
    def of(cls, process: KeyRules, config: GatewayConfig) -> RuleBook:
        """The rules of a configuration. Raises `ConfigError`."""
        return cls(read_rules(process, config), process)

    def prepare(self, config: GatewayConfig) -> Callable[[], None]:
        """Reads another configuration, and gives what puts its rules in force. Raises
        `ConfigError`."""
        rules = read_rules(self.process, config)

        def put() -> None:
            self.rules = rules

        return put


def read_rules(process: KeyRules, config: GatewayConfig) -> Rules:
    """The rules of a configuration; `ConfigError` naming the setting that is wrong."""
    general, litellm = config.general, config.litellm
    personal, team = read_maker_rules(litellm.key_generation_settings)
    return Rules(
        keys=evolve(
            process,
            defaults=read_settings(
                "default_key_generate_params", litellm.default_key_generate_params
            ),
            caps=read_caps(litellm.upperbound_key_generate_params),
            custom_keys=not general.disable_custom_api_keys,
            timezone=zone(litellm.timezone),
            reset_time=parse_reset_time(litellm.budget_reset_time),
            personal_keys=personal,
            team_keys=team,
        ),
        users=read_user_rules(
            litellm.default_internal_user_params,
            litellm.max_internal_user_budget,
            litellm.internal_user_budget_duration,
        ),
        teams=read_team_rules(
            defaults=litellm.default_team_params,
            user_defaults=litellm.default_internal_user_params,
            editable=general.team_admin_editable_team_fields,
            disable_auto_add=general.disable_auto_add_proxy_admin_to_teams,
            metadata_schema=general.team_metadata_schema,
        ),
    )
