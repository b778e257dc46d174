"""What model and credential routes check their changes against: the catalog that would result."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

from attrs import evolve, field, frozen

from shared.config.gateway_config import GatewayConfig, ModelEntry
from shared.config.stored import Stored
from shared.domain.errors import ConfigError, GatewayError, InvalidRequest, StoreUnavailable
from shared.gateway.live_models import LiveModels
from shared.routing.rating import PriceOf
from shared.routing.whole import Problem, Whole, WholeReport, Wholes
from shared.secrets.sealing import Sealer


def _no_key() -> Sealer:
    raise ConfigError("environment: LITELLM_SALT_KEY: is needed to store secrets; set it.")


def _no_price(provider: str, model: str) -> None:
    del provider, model


_NO_PRICES: PriceOf = _no_price


@frozen(eq=False)
class ModelCatalog:
    """The file's models, the making of catalogs, and the one that this instance serves itself.

    `stored` is whether models may be kept in the database at all (`STORE_MODEL_IN_DB`).
    """

    wholes: Wholes = field(factory=lambda: Wholes(GatewayConfig(), _NO_PRICES, _no_key))
    live: LiveModels | None = None
    stored: bool = True

    @property
    def config(self) -> GatewayConfig:
        """The configuration in force here."""
        return self.wholes.file if self.live is None else self.live.config

    def require_stored(self) -> None:
        """Raises where models are not kept in the database (contract §1.2)."""
        if not self.stored:
            raise GatewayError(
                "Models are not kept in the database here; set STORE_MODEL_IN_DB to true"
            )

    def sealer(self) -> Sealer:
        """What seals secrets. Raises `GatewayError` where there is no key for it."""
        try:
            return self.wholes.sealer()
        except ConfigError as error:
            raise GatewayError(str(error)) from None

    def make(self, stored: Stored) -> Whole:
        """The whole of what is stored. Raises `InvalidRequest` if it cannot be in force."""
        report = WholeReport()
        before = self.live.whole if self.live is not None else None
        try:
            whole = self.wholes.make(stored, report, before)
        except ConfigError as error:
            raise GatewayError(str(error)) from None
        if report.found:
            raise InvalidRequest(f"The models could not be in force: {report.problems[0]}")
        return whole

    def check(self, stored: Stored, path: str) -> None:
        """Raises `InvalidRequest` if what is stored cannot be in force, or if nobody could serve
        the model at `path` (as in `StoredModel.path`) even if it were not blocked."""
        models = tuple(
            evolve(row, blocked=False) if row.path == path else row for row in stored.models
        )
        report = WholeReport()
        before = self.live.whole if self.live is not None else None
        try:
            whole = self.wholes.make(evolve(stored, models=models), report, before)
        except ConfigError as error:
            raise GatewayError(str(error)) from None
        if report.found:
            own = (each for each in report.found if each.path.startswith(f"{path}."))
            raise _refusal(next(own, report.found[0]), path)
        for row in models:
            left_out = whole.unserved.get(row.model_id) if row.path == path else None
            if left_out is not None and not left_out.elsewhere:
                raise InvalidRequest(
                    f"litellm_params.model: nobody could serve it: {left_out.reason}",
                    param="litellm_params.model",
                )

    def entry_of_file(self, model_id: str) -> ModelEntry | None:
        """The entry of the configuration file that has an id."""
        if self.live is not None:
            entry = self.live.catalog.entries.get(model_id)
        else:
            entry = self.wholes.make(Stored(), WholeReport()).catalog.entries.get(model_id)
        return None if entry is None or entry.stored else entry

    async def refresh(self) -> None:
        """Puts what was committed in force on this instance, so that whoever reads here sees it.
        The change feed does it again where this fails."""
        if self.live is not None:
            with suppress(StoreUnavailable, ConfigError):
                await self.live.take_over()


def _refusal(problem: Problem, path: str) -> InvalidRequest:
    """A problem as an answer: the field of the request, else the place of what is in the way."""
    if problem.path.startswith(f"{path}."):
        param = problem.path.removeprefix(f"{path}.")
        return InvalidRequest(f"{param}: {problem.text}", param=param)
    return InvalidRequest(f"In the way is {problem.source}: {problem.path}: {problem.text}")


Sealing = Callable[[], Sealer]
