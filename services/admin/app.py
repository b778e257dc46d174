"""What the admin serves: the management API and the UI, and the data plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from services.admin.api import calls
from services.admin.api.commits import Commits
from services.admin.api.deps import AdminServices
from services.admin.api.key_policy import KeyRules, read_caps, read_settings
from services.admin.api.respond import error_middleware
from services.admin.api.routes import ROUTES
from services.admin.ui import page
from shared.db.pool import Store
from shared.domain.capabilities import RouteClass
from shared.fleet.applied import Notifier
from shared.gateway.build import Start
from shared.gateway.routes import register, register_fallback
from shared.gateway.runtime import Runtime
from shared.limits.windows import parse_reset_time, zone


def build_app(rt: Runtime, start: Start) -> web.Application:
    """The application with the routes that this instance's flags leave it."""
    app = web.Application(middlewares=[error_middleware], client_max_size=rt.limits.max_body_bytes)
    register(app, rt)
    if rt.capabilities.serves(RouteClass.MANAGEMENT):
        _add_management(app, rt, start)
    if rt.capabilities.serves(RouteClass.UI):
        facts = page.UiFacts(rt.version, rt.region, rt.capabilities, rt.root_path)
        page.register(app, facts)
    register_fallback(app, rt)
    return app


def _add_management(app: web.Application, rt: Runtime, start: Start) -> None:
    store = Store(start.dsn, application_name="meridian-admin-api")
    notifier = Notifier(store)
    services = AdminServices(
        store=store,
        clock=rt.clock,
        commits=Commits(store, notifier.poke, stale_limit_s=rt.limits.stale_limit_s),
        rules=key_rules(start),
        master_token=start.master_token,
        key_header=rt.key_header,
    )
    calls.register(app, services, ROUTES)

    async def connected(_: web.Application) -> AsyncIterator[None]:
        await store.open()
        announcing = rt.loop.create_task(notifier.run(), name="feed-notifier")
        try:
            yield
        finally:
            await services.commits.close()
            announcing.cancel()
            await asyncio.gather(announcing, return_exceptions=True)
            await store.close()

    app.cleanup_ctx.append(connected)


def key_rules(start: Start) -> KeyRules:
    """The operator's settings on keys; raises `ConfigError` for one that no key could have."""
    litellm, settings = start.config.litellm, start.settings
    return KeyRules(
        defaults=read_settings("default_key_generate_params", litellm.default_key_generate_params),
        caps=read_caps(litellm.upperbound_key_generate_params),
        store_names=not settings.disable_key_name,
        random_bytes=settings.key_bytes,
        shortest_custom_key=settings.minimum_custom_key_length,
        timezone=zone(litellm.timezone),
        reset_time=parse_reset_time(litellm.budget_reset_time),
    )
