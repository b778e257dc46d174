"""What a worker serves: the data plane, and nothing that administers."""

from __future__ import annotations

from aiohttp import web

from shared.gateway.build import Start
from shared.gateway.routes import register, register_fallback
from shared.gateway.runtime import Runtime


def build_app(rt: Runtime, start: Start) -> web.Application:
    """The application with the routes that this instance's flags leave it."""
    del start
    app = web.Application()
    register(app, rt)
    register_fallback(app, rt)
    return app
