"""What the admin serves: the management API and the UI, and the data plane."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web
from attrs import evolve

from services.admin import jobs
from services.admin.api import calls
from services.admin.api.commits import Commits
from services.admin.api.deps import AdminServices
from services.admin.api.key_policy import KeyRules
from services.admin.api.model_catalog import ModelCatalog
from services.admin.api.respond import error_middleware
from services.admin.api.routes import OPEN_ROUTES, ROUTES
from services.admin.api.rule_book import RuleBook
from services.admin.jwt_start import jwt_login
from services.admin.openapi import routes as openapi
from services.admin.ui import page
from shared.db.pool import Store
from shared.domain.capabilities import RouteClass
from shared.fleet.applied import Notifier
from shared.gateway.build import Start
from shared.gateway.routes import data_plane, register, register_fallback
from shared.gateway.runtime import Runtime


def build_app(rt: Runtime, start: Start) -> web.Application:
    """The application with the routes that this instance's flags leave it."""
    app = web.Application(middlewares=[error_middleware], client_max_size=rt.limits.max_body_bytes)
    register(app, rt)
    book = RuleBook.of(process_rules(start), rt.config)
    rt.models.on_config(book.prepare)
    if rt.capabilities.serves(RouteClass.MANAGEMENT):
        _add_management(app, rt, start, book)
    if rt.capabilities.serves(RouteClass.UI):
        facts = page.UiFacts(rt.version, rt.region, rt.capabilities, rt.root_path)
        page.register(app, facts)
    jobs.register(app, evolve(start, config=rt.config), book.rules.keys, rt.clock)
    register_fallback(app, rt)
    return app


def _add_management(app: web.Application, rt: Runtime, start: Start, book: RuleBook) -> None:
    store = Store(start.dsn, application_name="meridian-admin-api")
    notifier = Notifier(store)
    services = AdminServices(
        store=store,
        clock=rt.clock,
        commits=Commits(store, notifier.poke, stale_limit_s=rt.limits.stale_limit_s),
        book=book,
        models=ModelCatalog(rt.models.wholes, rt.models, stored=start.settings.store_model_in_db),
        master_token=start.master_token,
        key_header=rt.key_header,
        jwt=jwt_login(
            None if rt.bearers is None else rt.bearers.verifier, rt.config.general.litellm_jwtauth
        ),
    )
    calls.register(app, services, ROUTES)
    calls.register_open(app, OPEN_ROUTES)
    openapi.register(
        app,
        services,
        (*ROUTES, *OPEN_ROUTES),
        [spec for spec, _ in data_plane(rt) if rt.capabilities.serves(spec.route_class)],
        public=start.settings.public_api_docs,
        version=rt.version,
        root_path=rt.root_path,
    )

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


def process_rules(start: Start) -> KeyRules:
    """What the environment says of keys."""
    settings = start.settings
    return KeyRules(
        store_names=not settings.disable_key_name,
        random_bytes=settings.key_bytes,
        shortest_custom_key=settings.minimum_custom_key_length,
        rotation_grace=settings.key_rotation_grace,
    )
