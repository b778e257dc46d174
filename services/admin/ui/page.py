"""The one page of `/ui`: what this instance is and where its APIs are.

It shows nothing that needs a login: no secret, nothing out of the database.
"""

from __future__ import annotations

from importlib import resources

import aiohttp_jinja2
import jinja2
from aiohttp import web
from attrs import field, frozen

from shared.domain.capabilities import Capabilities, RouteClass
from shared.gateway.route_specs import RouteSpec

_POLICY = (
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
_HEADERS = (
    ("content-security-policy", _POLICY),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
)
_CAPABILITIES = (
    ("llm", "LLM API"),
    ("management", "Management API"),
    ("ui", "Admin UI"),
    ("probes", "Health probes that call upstreams"),
)


@frozen
class UiFacts:
    """What the page says. `root_path` is SERVER_ROOT_PATH, without a slash at its end."""

    version: str
    region: str
    capabilities: Capabilities
    root_path: str = ""


@frozen
class _Row:
    title: str
    held: bool
    reason: str


@frozen
class _Ui:
    facts: UiFacts
    style: str = field(repr=False)


UI: web.AppKey[_Ui] = web.AppKey("ui", _Ui)


async def show_page(request: web.Request) -> web.Response:
    """GET /ui"""
    facts = request.app[UI].facts
    rows = [
        _Row(title, getattr(facts.capabilities, name), facts.capabilities.reasons.get(name, ""))
        for name, title in _CAPABILITIES
    ]
    context = {
        "facts": facts,
        "capabilities": rows,
        "llm": facts.capabilities.llm,
        "management": facts.capabilities.management,
    }
    response = aiohttp_jinja2.render_template("index.html", request, context)
    response.headers.update(_HEADERS)
    return response


async def show_style(request: web.Request) -> web.Response:
    """GET /ui/ui.css"""
    return web.Response(text=request.app[UI].style, content_type="text/css", headers=dict(_HEADERS))


UI_ROUTES = (
    (RouteSpec("GET", "/ui", RouteClass.UI, "show_page"), show_page),
    (RouteSpec("GET", "/ui/", RouteClass.UI, "show_page"), show_page),
    (RouteSpec("GET", "/ui/ui.css", RouteClass.UI, "show_style"), show_style),
)


def register(app: web.Application, facts: UiFacts) -> None:
    """Adds the page. To be called only where the UI capability is held."""
    style = resources.files("services.admin.ui.static").joinpath("ui.css")
    app[UI] = _Ui(facts, style.read_text(encoding="utf-8"))
    aiohttp_jinja2.setup(
        app,
        loader=jinja2.PackageLoader("services.admin.ui"),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        default_helpers=False,
    )
    for spec, handler in UI_ROUTES:
        app.router.add_route(spec.method, spec.path, handler)
