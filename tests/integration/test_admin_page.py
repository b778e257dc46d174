"""The page of `/ui`, and the classes of the admin's routes."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web

from services.admin.api import keys
from services.admin.ui import page
from shared.domain.capabilities import Binary, RouteClass, decide
from shared.gateway.route_classes import classify


def test_routes_are_of_their_class() -> None:
    """What is registered here is of the class that its path has."""
    specs = [route.spec for route in keys.KEY_ROUTES] + [spec for spec, _ in page.UI_ROUTES]
    for spec in specs:
        assert classify(spec.path) is spec.route_class
    assert {route.spec.route_class for route in keys.KEY_ROUTES} == {RouteClass.MANAGEMENT}


async def test_ui_page(aiohttp_client: Any) -> None:
    """The page says what the instance is without any login, script or foreign origin."""
    capabilities = decide(Binary.ADMIN, {"DISABLE_LLM_ENDPOINTS": True})
    app = web.Application()
    page.register(app, page.UiFacts("1.2.3", "eu<b>", capabilities, "/gw"))
    client = await aiohttp_client(app)
    for path in ("/ui", "/ui/"):
        async with client.get(path) as response:
            text = await response.text()
            assert response.status == 200
            policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-inline" not in policy
    assert "1.2.3" in text
    assert "eu&lt;b&gt;" in text
    assert "switched off by DISABLE_LLM_ENDPOINTS" in text
    assert "/gw/key/generate" in text
    assert "<script" not in text
    assert "style=" not in text
    [sheet] = re.findall(r'<link rel="stylesheet" href="/gw(.*?)">', text)
    async with client.get(sheet) as response:
        assert (response.status, response.content_type) == (200, "text/css")
