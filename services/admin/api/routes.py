"""Every route of the management API, in one table."""

from __future__ import annotations

from services.admin.api.calls import AdminRoute
from services.admin.api.keys import KEY_ROUTES

ROUTES: tuple[AdminRoute, ...] = (*KEY_ROUTES,)
