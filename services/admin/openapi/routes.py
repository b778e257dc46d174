"""GET /openapi.json and GET /docs: what this instance serves, for programs and for people.

Both show nothing but what the code says: no secret, no setting, nothing out of the database. By
default any valid key reads them; MERIDIAN_PUBLIC_API_DOCS lets everybody.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property

import msgspec
from aiohttp import web
from attrs import field, frozen

from services.admin.api import calls
from services.admin.api.access import ANY_KEY
from services.admin.api.calls import AdminRoute, OpenCall, OpenRoute
from services.admin.api.deps import AdminServices
from services.admin.api.returns import OBJECT, Returns
from services.admin.openapi.document import build_document
from services.admin.openapi.operations import Json
from services.admin.openapi.page import Page, render
from shared.gateway.route_specs import RouteSpec

_HEADERS = (
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("cache-control", "no-store"),
)


@frozen
class Documentation:
    """A document, and what it is sent as; that is made when it is first asked for."""

    document: Json
    root_path: str = field(default="")

    @cached_property
    def encoded(self) -> bytes:
        """The document as JSON."""
        return msgspec.json.encode(self.document)

    @cached_property
    def page(self) -> Page:
        """The document as a page."""
        return render(self.document, self.root_path)


DOCUMENTATION: web.AppKey[Documentation] = web.AppKey("documentation", Documentation)


async def show_document(call: OpenCall) -> web.Response:
    """GET /openapi.json: this document."""
    body = call.request.app[DOCUMENTATION].encoded
    return web.Response(body=body, content_type="application/json", headers=dict(_HEADERS))


async def show_page(call: OpenCall) -> web.Response:
    """GET /docs: this document as a page."""
    page = call.request.app[DOCUMENTATION].page
    headers = {**dict(_HEADERS), "content-security-policy": page.policy}
    return web.Response(text=page.html, content_type="text/html", headers=headers)


_PAGE = Returns(media=("text/html",))
_NONE: frozenset[str] = frozenset()

DOCUMENT_ROUTES = (
    AdminRoute("GET", "/openapi.json", show_document, ANY_KEY, _NONE, returns=OBJECT),
    AdminRoute("GET", "/docs", show_page, ANY_KEY, _NONE, returns=_PAGE),
)
PUBLIC_DOCUMENT_ROUTES = tuple(
    OpenRoute(route.method, route.path, handler, returns=route.returns)
    for route, handler in zip(DOCUMENT_ROUTES, (show_document, show_page), strict=True)
)


def register(
    app: web.Application,
    services: AdminServices,
    routes: Iterable[AdminRoute | OpenRoute],
    specs: Sequence[RouteSpec],
    *,
    public: bool,
    version: str,
    root_path: str,
) -> None:
    """Adds both, about these routes and themselves."""
    own = PUBLIC_DOCUMENT_ROUTES if public else DOCUMENT_ROUTES
    document = build_document((*routes, *own), specs, version=version, root_path=root_path)
    app[DOCUMENTATION] = Documentation(document, root_path)
    if public:
        calls.register_open(app, PUBLIC_DOCUMENT_ROUTES)
    else:
        calls.register(app, services, DOCUMENT_ROUTES)
