"""Model groups and the deployments behind them (LLM contract §4.1)."""

from __future__ import annotations

from typing import Any

from attrs import field, frozen

from shared.domain.usage import Rates


@frozen
class Timeouts:
    """Seconds a phase of an upstream call may take. `idle_s` is between two body chunks."""

    connect_s: float = 5.0
    first_byte_s: float = 600.0
    idle_s: float = 600.0
    total_s: float = 6000.0


@frozen
class Deployment:
    """One `model_list` entry, resolved.

    `upstream_model` goes into the body sent upstream; `provider` names a provider of
    `shared.providers`. `defaults` are the entry's further parameters, sent where the request
    does not set them. `weight` is for the shuffle; `region` is where the upstream stands.
    `derived` is for what others make of the deployment once and use for every call: it lives as
    long as the deployment does and is no part of it.
    """

    id: str
    model_group: str
    provider: str
    upstream_model: str
    api_base: str
    api_key: str | None = field(default=None, repr=False)
    mode: str = "chat"
    weight: float = 1.0
    region: str | None = None
    rates: Rates | None = None
    timeouts: Timeouts = Timeouts()
    stream_timeouts: Timeouts | None = None
    num_retries: int | None = None
    access_groups: tuple[str, ...] = ()
    organization: str | None = None
    extra_headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    defaults: dict[str, Any] = field(factory=dict, repr=False)
    drop_params: tuple[str, ...] = ()
    max_input_tokens: int | None = None
    max_output_tokens: int | None = None
    derived: dict[Any, Any] = field(factory=dict, init=False, eq=False, repr=False)
