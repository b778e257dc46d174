"""What a call costs or would cost (management contract §3.12).

Models are those of the configuration with their own prices, else whatever the price table knows. A
model that the caller may not use has no price for it. Where there is a text and no count, four
bytes of it are one token.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from aiohttp import web
from attrs import frozen

from services.admin.api.access import ANY_KEY
from services.admin.api.body import Field
from services.admin.api.calls import AdminCall, AdminRoute
from services.admin.api.respond import answer
from services.admin.api.spend_logs import SPEND_GROUPS
from services.admin.api.values import MAX_PARALLEL, Loc, Wrong, count, listing, reader, text
from services.admin.api.wire_rows import wire
from shared.config.stored import Stored
from shared.domain.errors import InvalidRequest, RequestError
from shared.domain.usage import Rates, Usage
from shared.providers.prices.cost import cost
from shared.providers.prices.entry import PriceEntry
from shared.providers.usage_extract import LARGEST_COUNT, estimate_tokens, extract_usage
from shared.routing.access import allowed
from shared.routing.catalog import Catalog
from shared.routing.whole import WholeReport

# Who sells models under their bare names, in the order in which they are asked.
_SELLERS = ("openai", "anthropic", "gemini", "vertex_ai", "mistral", "cohere", "bedrock")


@frozen
class _Priced:
    """A model with a price: USD per token."""

    provider: str
    rates: Rates

    def cost(self, usage: Usage) -> Decimal:
        """USD."""
        return cost(PriceEntry(self.rates, "table"), usage)


@reader()
def _anything(value: Any, loc: Loc) -> Any:
    del loc
    return value


@reader(type="object")
def _response(value: Any, loc: Loc) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Wrong("dict_type", loc, "Input should be a valid dictionary")
    return value


_tokens = count(LARGEST_COUNT)
_CALCULATE_FIELDS = (
    Field("model", text),
    Field("messages", listing(_anything)),
    Field("completion_response", _response),
)
_ESTIMATE_FIELDS = (
    Field("model", text, required=True),
    Field("input_tokens", _tokens, required=True),
    Field("output_tokens", _tokens, required=True),
    Field("cache_read_input_tokens", _tokens),
    Field("cache_creation_input_tokens", _tokens),
    Field("num_requests_per_day", count(MAX_PARALLEL)),
    Field("num_requests_per_month", count(MAX_PARALLEL)),
)


async def calculate(call: AdminCall) -> web.Response:
    """POST /spend/calculate: what a call would cost, or has."""
    values = await call.fields()
    response = values.get("completion_response")
    if response is not None:
        usage = extract_usage(response.get("usage"))
        if usage is None:
            raise InvalidRequest("completion_response has no usage", param="completion_response")
        model = values.get("model") or response.get("model")
    else:
        model, messages = values.get("model"), values.get("messages")
        if messages is None:
            raise InvalidRequest(
                "Give completion_response, or model and messages", param="messages"
            )
        usage = Usage(prompt_tokens=estimate_tokens(sum(map(_text_bytes, messages))))
    if not isinstance(model, str) or not model:
        raise InvalidRequest("model is required", param="model")
    priced = _priced(call, model)
    if priced is None:
        raise InvalidRequest("There is no price of this model", param="model")
    return answer({"cost": wire(priced.cost(usage))})


async def estimate(call: AdminCall) -> web.Response:
    """POST /cost/estimate: what calls to a model will cost in a day and a month."""
    values = await call.fields()
    priced = _priced(call, values["model"])
    if priced is None:
        raise RequestError(
            "There is no price of this model", status=404, type="not_found_error", param="model"
        )
    usage = _usage(values)
    whole = priced.cost(usage)
    into = priced.cost(_without_output(usage))
    body: dict[str, Any] = {
        "model": values["model"],
        "provider": priced.provider,
        "input_tokens": values["input_tokens"],
        "output_tokens": values["output_tokens"],
        "num_requests_per_day": values.get("num_requests_per_day"),
        "num_requests_per_month": values.get("num_requests_per_month"),
        "input_cost_per_token": wire(priced.rates.input),
        "output_cost_per_token": wire(priced.rates.output),
        "cost_per_request": wire(whole),
        "input_cost_per_request": wire(into),
        "output_cost_per_request": wire(whole - into),
        "margin_cost_per_request": 0.0,
    }
    for period in ("day", "month"):
        many = values.get(f"num_requests_per_{period}")
        body |= _in_period({"day": "daily", "month": "monthly"}[period], many, whole, into)
    return answer(body)


SPEND_COST_ROUTES = (
    AdminRoute(
        "POST",
        "/spend/calculate",
        calculate,
        ANY_KEY,
        SPEND_GROUPS,
        body=_CALCULATE_FIELDS,
        reads=True,
    ),
    AdminRoute(
        "POST", "/cost/estimate", estimate, ANY_KEY, SPEND_GROUPS, body=_ESTIMATE_FIELDS, reads=True
    ),
)


def _usage(values: Mapping[str, Any]) -> Usage:
    read = values.get("cache_read_input_tokens") or 0
    written = values.get("cache_creation_input_tokens") or 0
    return Usage(
        prompt_tokens=max(values["input_tokens"], read + written),
        completion_tokens=values["output_tokens"],
        cached_tokens=read,
        cache_write_tokens=written,
    )


def _without_output(usage: Usage) -> Usage:
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )


def _in_period(name: str, many: int | None, whole: Decimal, into: Decimal) -> dict[str, Any]:
    amounts = {"cost": whole, "input_cost": into, "output_cost": whole - into}
    shown = {
        f"{name}_{part}": None if many is None else wire(amount * many)
        for part, amount in amounts.items()
    }
    return shown | {f"{name}_margin_cost": None if many is None else 0.0}


def _priced(call: AdminCall, name: str) -> _Priced | None:
    group = _catalog(call).resolve(name)
    if group is None:
        return _listed(call, name)
    if not call.caller.sees_all and not allowed(call.caller.principal, name, group):
        return None
    for deployment in group.deployments:
        if deployment.rates is not None:
            return _Priced(deployment.provider, deployment.rates)
    return None


def _listed(call: AdminCall, name: str) -> _Priced | None:
    """The price table's word on a model that is not configured."""
    price_of = call.services.models.wholes.price_of
    provider, slash, model = name.partition("/")
    sellers = [(provider, model)] if slash else []
    for seller, asked in (*sellers, *((each, name) for each in _SELLERS)):
        rates = price_of(seller, asked)
        if rates is not None:
            return _Priced(seller, rates)
    return None


def _catalog(call: AdminCall) -> Catalog:
    models = call.services.models
    if models.live is not None:
        return models.live.catalog
    return models.wholes.make(Stored(), WholeReport()).catalog


def _text_bytes(message: Any) -> int:
    """Bytes of a message's text, whichever way it is given."""
    content = message.get("content") if isinstance(message, dict) else message
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict))
        return sum(len(part.encode("utf-8", "replace")) for part in parts if isinstance(part, str))
    return len(content.encode("utf-8", "replace")) if isinstance(content, str) else 0
