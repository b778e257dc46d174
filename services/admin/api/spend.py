"""Every route about spend and activity (management contract §3.12)."""

from __future__ import annotations

from services.admin.api.activity import ACTIVITY_ROUTES
from services.admin.api.calls import AdminRoute
from services.admin.api.cost_estimates import SPEND_COST_ROUTES
from services.admin.api.global_spend import GLOBAL_SPEND_ROUTES
from services.admin.api.global_spend_activity import GLOBAL_ACTIVITY_ROUTES
from services.admin.api.spend_logs import SPEND_LOG_ROUTES
from services.admin.api.spend_owners import SPEND_OWNER_ROUTES
from services.admin.api.spend_reports import SPEND_REPORT_ROUTES

SPEND_ROUTES: tuple[AdminRoute, ...] = (
    *SPEND_LOG_ROUTES,
    *SPEND_OWNER_ROUTES,
    *SPEND_REPORT_ROUTES,
    *SPEND_COST_ROUTES,
    *GLOBAL_SPEND_ROUTES,
    *GLOBAL_ACTIVITY_ROUTES,
    *ACTIVITY_ROUTES,
)
