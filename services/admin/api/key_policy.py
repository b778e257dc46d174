"""What a request for a key comes to: defaults, caps, expiry, and the columns to store."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from datetime import UTC, datetime, time, tzinfo
from decimal import Decimal
from typing import Any

from attrs import evolve, field, frozen

from services.admin.api.body import Field, Place, placed, read_fields
from services.admin.api.common_fields import texts
from services.admin.api.key_fields import (
    GENERATE_FIELDS,
    KEY_TYPE_ROUTES,
    UPDATE_FIELDS,
    empty_columns,
)
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.values import Wrong, document
from shared.domain.errors import ConfigError, InvalidRequest, PermissionDenied, RequestError
from shared.domain.keys import hash_key, masked_name
from shared.keys.generate import KEY_BYTES, SHORTEST_CUSTOM_KEY, check_custom_key, generate_key
from shared.limits.windows import parse_duration

_CAPPED_AMOUNTS = (
    "max_budget",
    "soft_budget",
    "tpm_limit",
    "rpm_limit",
    "tpd_limit",
    "max_parallel_requests",
)
_CAPPED_DURATIONS = ("duration", "budget_duration")
_NEVER = "-1"


@frozen
class MakerRule:
    """Who, besides proxy admins, may make keys of a kind, and what they must say.

    `roles` are roles of the gateway for keys of one's own, and of the team for a team's; `None`
    is all of them.
    """

    roles: frozenset[str] | None = None
    required: tuple[str, ...] = ()


@frozen(kw_only=True)
class KeyRules:
    """The operator's settings on keys. `defaults` and `caps` are clean field values.

    `timezone` and `reset_time` are those of budget windows. `rotation_grace` is how long a rotated
    key works on when the request does not say.
    """

    defaults: Mapping[str, Any] = field(factory=dict)
    caps: Mapping[str, Any] = field(factory=dict)
    custom_keys: bool = True
    store_names: bool = True
    random_bytes: int = KEY_BYTES
    shortest_custom_key: int = SHORTEST_CUSTOM_KEY
    timezone: tzinfo = UTC
    reset_time: time = time(0)
    personal_keys: MakerRule = MakerRule()
    team_keys: MakerRule = MakerRule()
    rotation_grace: str = ""


@frozen(kw_only=True)
class NewKey:
    """A key to be stored. `plain` is for its maker's eyes only."""

    plain: str = field(repr=False)
    token: str
    columns: Mapping[str, Any]
    object_permission: Mapping[str, Any] | None
    spend: Decimal | None


@frozen(kw_only=True)
class KeyChange:
    """An update: `columns` are set, `metadata` is merged over what is stored or newly set."""

    columns: Mapping[str, Any] = field(factory=dict)
    metadata: Mapping[str, Any] = field(factory=dict)
    object_permission: Mapping[str, Any] | None = None
    spend: Decimal | None = None

    def applied(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row as the change leaves it."""
        after = {**row, **self.columns}
        after["metadata"] = {**after["metadata"], **self.metadata}
        return after


def read_settings(name: str, settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Field values out of a setting; `ConfigError` naming the member that is wrong."""
    known = {each.name for each in GENERATE_FIELDS} - {"key", "key_alias"}
    for member in settings:
        if member not in known:
            raise ConfigError(f"litellm_settings.{name}.{member}: no such field of a key")
    try:
        return {
            member: value
            for member, value in read_fields(settings, GENERATE_FIELDS).items()
            if value is not None
        }
    except RequestError as error:
        raise ConfigError(f"litellm_settings.{name}: {error.message}") from None


def read_caps(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """`upperbound_key_generate_params`; only amounts and durations can be capped."""
    caps = read_settings("upperbound_key_generate_params", settings)
    for member in caps:
        if member not in (*_CAPPED_AMOUNTS, *_CAPPED_DURATIONS):
            raise ConfigError(
                f"litellm_settings.upperbound_key_generate_params.{member}: cannot be capped"
            )
    return caps


def read_maker_rules(settings: Mapping[str, Any]) -> tuple[MakerRule, MakerRule]:
    """`key_generation_settings`: the rules for keys of one's own and for those of teams."""
    return (
        _maker_rule(settings, "personal_key_generation", "allowed_user_roles"),
        _maker_rule(settings, "team_key_generation", "allowed_team_member_roles"),
    )


def new_key(body: Mapping[str, Any], rules: KeyRules, now: datetime, actor: str) -> NewKey:
    """The key that a /key/generate body asks for."""
    values = read_fields(body, GENERATE_FIELDS)
    plain = plain_key(values.get("key"), rules)
    for name, value in rules.defaults.items():
        if values.get(name) is None:
            values[name] = value
    _cap(values, rules.caps, (*_CAPPED_AMOUNTS, *_CAPPED_DURATIONS), now)
    sent = {name: value for name, value in values.items() if value is not None}
    columns = {**empty_columns(), **placed(sent, GENERATE_FIELDS, Place.COLUMN)}
    columns["metadata"] = {
        **columns["metadata"],
        **placed(sent, GENERATE_FIELDS, Place.METADATA),
    }
    _set_routes(columns)
    columns["key_rotation_at"] = rotation_time(columns, now)
    columns |= {
        "token": hash_key(plain),
        "key_name": masked_name(plain) if rules.store_names else None,
        "expires": _expiry(values.get("duration"), now),
        "object_permission_id": None,
        "created_by": actor,
        "updated_by": actor,
    }
    return NewKey(
        plain=plain,
        token=columns["token"],
        columns=columns,
        object_permission=sent.get("object_permission"),
        spend=sent.get("spend"),
    )


def service_account(key: NewKey) -> NewKey:
    """A team's key that belongs to no user, named by its alias or by an id of its own."""
    if key.columns["team_id"] is None:
        raise InvalidRequest("team_id is required for a service account", param="team_id")
    account = key.columns["key_alias"] or str(uuid.uuid4())
    metadata = {**key.columns["metadata"], "service_account_id": account}
    return evolve(key, columns={**key.columns, "user_id": None, "metadata": metadata})


def key_change(
    body: Mapping[str, Any], rules: KeyRules, now: datetime
) -> tuple[dict[str, Any], KeyChange]:
    """What an /key/update body changes, and its values. Only sent fields change; null clears a
    column and leaves a metadata-backed field as it is."""
    values = read_fields(body, UPDATE_FIELDS)
    if values.get("key") is None and values.get("key_alias") is None:
        raise Unprocessable([Issue("value_error", ("body",), "Either key or key_alias is needed")])
    change = change_of(values, rules, now)
    if values.get("key") is None:
        # The alias says which key, not what it shall be called.
        columns = {name: it for name, it in change.columns.items() if name != "key_alias"}
        change = evolve(change, columns=columns)
    return values, change


def change_of(values: dict[str, Any], rules: KeyRules, now: datetime) -> KeyChange:
    """What the sent values of `UPDATE_FIELDS` change; caps are filled into `values`."""
    if (values.get("temp_budget_increase") is None) != (values.get("temp_budget_expiry") is None):
        message = "temp_budget_increase and temp_budget_expiry go only together"
        raise Unprocessable([Issue("value_error", ("body",), message)])
    named = [name for name in (*_CAPPED_AMOUNTS, *_CAPPED_DURATIONS) if name in values]
    _cap(values, rules.caps, named, now)
    columns = {
        name: empty_columns()[name] if value is None else value
        for name, value in placed(values, UPDATE_FIELDS, Place.COLUMN).items()
    }
    _set_routes(columns)
    if "duration" in values:
        columns["expires"] = _expiry(values["duration"], now)
    metadata = placed(values, UPDATE_FIELDS, Place.METADATA)
    return KeyChange(
        columns=columns,
        metadata={name: value for name, value in metadata.items() if value is not None},
        object_permission=values.get("object_permission"),
        spend=values.get("spend"),
    )


def _maker_rule(settings: Mapping[str, Any], kind: str, roles: str) -> MakerRule:
    said = settings.get(kind)
    fields = (Field(roles, texts), Field("required_params", texts))
    try:
        values = read_fields(document({} if said is None else said, (kind,)), fields)
    except (Wrong, RequestError) as error:
        raise ConfigError(f"litellm_settings.key_generation_settings.{kind}: {error}") from None
    allowed = values.get(roles)
    required = tuple(values.get("required_params") or ())
    return MakerRule(None if allowed is None else frozenset(allowed), required)


def plain_key(custom: str | None, rules: KeyRules, param: str = "key") -> str:
    """A plain key: the one that a request brings in the field `param`, or a fresh one."""
    if custom is None:
        return generate_key(rules.random_bytes)
    if not rules.custom_keys:
        raise PermissionDenied("Keys of one's own choosing are switched off", param=param)
    return check_custom_key(custom, rules.shortest_custom_key, param)


def _expiry(duration: str | None, now: datetime) -> datetime | None:
    if duration is None or duration == _NEVER:
        return None
    return parse_duration(duration).after(now)


def rotation_time(row: Mapping[str, Any], now: datetime) -> datetime | None:
    """When a key that rotates by itself is to do so next."""
    interval = row["rotation_interval"]
    if not row["auto_rotate"]:
        return None
    if interval is None or interval == _NEVER:
        raise InvalidRequest("auto_rotate needs a rotation_interval", param="rotation_interval")
    return parse_duration(interval, param="rotation_interval").after(now)


def _set_routes(columns: dict[str, Any]) -> None:
    routes = KEY_TYPE_ROUTES.get(columns.get("key_type", ""))
    if routes is not None:
        columns["allowed_routes"] = routes


def _cap(
    values: dict[str, Any],
    caps: Mapping[str, Any],
    names: list[str] | tuple[str, ...],
    now: datetime,
) -> None:
    """Fills what is open with the cap, and refuses what is above it."""
    for name in names:
        if name not in caps:
            continue
        cap, value = caps[name], values.get(name)
        if value is None or value == _NEVER:
            values[name] = cap
        elif _rank(name, value, now) > _rank(name, cap, now):
            raise InvalidRequest(f"{name} is above the allowed {cap}", param=name)


def _rank(name: str, value: Any, now: datetime) -> Any:
    return parse_duration(value, param=name).after(now) if name in _CAPPED_DURATIONS else value
