"""Every route of the management API, in one table."""

from __future__ import annotations

from services.admin.api.access_groups import ACCESS_GROUP_ROUTES
from services.admin.api.audit_log import AUDIT_ROUTES
from services.admin.api.budgets import BUDGET_ROUTES
from services.admin.api.callbacks import CONFIG_CALLBACK_ROUTES
from services.admin.api.calls import AdminRoute, OpenRoute
from services.admin.api.config import CONFIG_OPEN_ROUTES, CONFIG_ROUTES
from services.admin.api.config_defaults import CONFIG_DEFAULT_ROUTES
from services.admin.api.config_router import CONFIG_ROUTER_ROUTES
from services.admin.api.cost_config import COST_CONFIG_ROUTES
from services.admin.api.credentials import CREDENTIAL_ROUTES
from services.admin.api.customers import CUSTOMER_ROUTES
from services.admin.api.invitations import INVITATION_OPEN_ROUTES, INVITATION_ROUTES
from services.admin.api.keys import KEY_ROUTES
from services.admin.api.model_access_groups import MODEL_ACCESS_GROUP_ROUTES
from services.admin.api.models import MODEL_ROUTES
from services.admin.api.organization_members import ORGANIZATION_MEMBER_ROUTES
from services.admin.api.organizations import ORGANIZATION_ROUTES
from services.admin.api.passwords import PASSWORD_ROUTES
from services.admin.api.projects import PROJECT_ROUTES
from services.admin.api.spend import SPEND_ROUTES
from services.admin.api.tags import TAG_ROUTES
from services.admin.api.team_callbacks import CALLBACK_ROUTES
from services.admin.api.team_lists import TEAM_LIST_ROUTES
from services.admin.api.team_member_spend import MEMBER_SPEND_ROUTES
from services.admin.api.team_members_bulk import BULK_MEMBER_ROUTES
from services.admin.api.team_membership import MEMBER_ROUTES
from services.admin.api.team_permissions import PERMISSION_ROUTES
from services.admin.api.team_spend import TEAM_SPEND_ROUTES
from services.admin.api.teams import TEAM_ROUTES
from services.admin.api.users import USER_ROUTES

ROUTES: tuple[AdminRoute, ...] = (
    *AUDIT_ROUTES,
    *KEY_ROUTES,
    *BUDGET_ROUTES,
    *CUSTOMER_ROUTES,
    *ORGANIZATION_ROUTES,
    *ORGANIZATION_MEMBER_ROUTES,
    *TAG_ROUTES,
    *ACCESS_GROUP_ROUTES,
    *MODEL_ACCESS_GROUP_ROUTES,
    *PROJECT_ROUTES,
    *USER_ROUTES,
    *INVITATION_ROUTES,
    *PASSWORD_ROUTES,
    *TEAM_ROUTES,
    *TEAM_LIST_ROUTES,
    *TEAM_SPEND_ROUTES,
    *MEMBER_ROUTES,
    *MEMBER_SPEND_ROUTES,
    *BULK_MEMBER_ROUTES,
    *PERMISSION_ROUTES,
    *CALLBACK_ROUTES,
    *MODEL_ROUTES,
    *CREDENTIAL_ROUTES,
    *CONFIG_ROUTES,
    *CONFIG_CALLBACK_ROUTES,
    *CONFIG_DEFAULT_ROUTES,
    *CONFIG_ROUTER_ROUTES,
    *COST_CONFIG_ROUTES,
    *SPEND_ROUTES,
)

# All that anybody may call without a key.
OPEN_ROUTES: tuple[OpenRoute, ...] = (*INVITATION_OPEN_ROUTES, *CONFIG_OPEN_ROUTES)
