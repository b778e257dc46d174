"""What a team's admin may say of the team's models.

A deployment pairs a secret with the place that it is sent to and with a price. Whoever may choose
one of these must not get hold of, or spend, a secret that somebody else has given: so a team's
admin that says where calls go brings the secret for it in the same request.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from shared.domain.errors import PermissionDenied
from shared.secrets.members import paths_of
from shared.secrets.sealing import is_sealed

# Members that neither lead a secret elsewhere nor change what a call costs.
_HARMLESS = frozenset(
    {
        "rpm",
        "tpm",
        "weight",
        "timeout",
        "stream_timeout",
        "num_retries",
        "max_retries",
        "drop_params",
        "additional_drop_params",
        "tags",
    }
)
# A group may have a budget, which all of its models spend.
_ADMINS_ONLY = ("blocked", "access_groups")
_ABSENT: tuple[Any, ...] = (None, [])
_NOTHING: Mapping[str, Any] = MappingProxyType({})
_PRICED_BY = ("base_model", "pricing_provider")
_REFERENCE = "os.environ"


def check_delegated(
    params: Mapping[str, Any],
    sent: Mapping[str, Any],
    info: Mapping[str, Any],
    stored_info: Mapping[str, Any] = _NOTHING,
) -> None:
    """Raises `PermissionDenied` unless a team's admin may make `params`, of which it has `sent`
    some, what a model is called with. Secrets that were stored before are envelopes in it. What
    it sends of `model_info` as it is stored is nothing said."""
    info_sent = {
        name: value
        for name, value in info.items()
        if value != stored_info.get(name)
        and not (value in _ABSENT and stored_info.get(name) in _ABSENT)
    }
    for name in _ADMINS_ONLY:
        if name in info_sent:
            raise _denied(f"model_info.{name}", "is for proxy admins to say")
    risky = [name for name in sent if name not in _HARMLESS]
    risky += [n for n in info_sent if n in _PRICED_BY or "cost" in n]
    if not risky:
        return
    references = paths_of(dict(params), lambda text: _REFERENCE in text, "litellm_params")
    if references:
        raise _denied(references[0], "must not refer to a variable of the gateway")
    if params.get("litellm_credential_name") is not None:
        raise _denied("litellm_params.litellm_credential_name", "is for proxy admins to use")
    foreign = paths_of(dict(params), is_sealed, "litellm_params")
    if foreign:
        raise _denied(foreign[0], "must be sent again together with what was changed")
    if not params.get("api_key"):
        # Without one the gateway's own would be sent.
        raise _denied("litellm_params.api_key", "must be the team's own")


def _denied(param: str, what: str) -> PermissionDenied:
    return PermissionDenied(f"{param} {what}", param=param)
