"""`meridian budgets …`, `meridian organizations …` and `meridian customers …`"""

from __future__ import annotations

from services.cli.command import Command, Option, Pages, Place, View
from services.cli.options import BUDGET, LIMITS, METADATA, MODELS, wanted, word, words
from services.cli.shapes import member

_BUDGET_ID = word("BUDGET_ID", "budget_id", "the budget")
_CUSTOMER_ID = word("USER_ID", "user_id", "the end user")
_CUSTOMER_IDS = words("USER_ID", "user_ids", "the end users")

BUDGETS: tuple[Command, ...] = (
    Command(
        words=("budgets", "list"),
        help="list budgets",
        method="GET",
        path="/budget/list",
        view=View(
            (
                "budget_id",
                "max_budget",
                "soft_budget",
                "duration:budget_duration",
                "resets:budget_reset_at",
                "rpm:rpm_limit",
                "tpm:tpm_limit",
                "parallel:max_parallel_requests",
            )
        ),
    ),
    Command(
        words=("budgets", "create"),
        also=("new", "add"),
        help="make a budget",
        method="POST",
        path="/budget/new",
        options=(Option("--budget-id", "budget_id", "id; made up if not given"), *LIMITS),
        fields=True,
    ),
    Command(
        words=("budgets", "update"),
        help="change what is given of a budget",
        method="POST",
        path="/budget/update",
        options=(_BUDGET_ID, *LIMITS),
        fields=True,
    ),
    Command(
        words=("budgets", "delete"),
        help="delete a budget",
        method="POST",
        path="/budget/delete",
        options=(word("BUDGET_ID", "id", "the budget"),),
    ),
)

ORGANIZATIONS: tuple[Command, ...] = (
    Command(
        words=("organizations", "list"),
        help="list organizations",
        method="GET",
        path="/organization/list",
        options=(wanted("--organization-alias", "org_alias", "by a part of the name"),),
        view=View(
            (
                "organization_id",
                "alias:organization_alias",
                "spend",
                "max_budget:litellm_budget_table.max_budget",
                "models",
                "created_at",
            )
        ),
    ),
    Command(
        words=("organizations", "info"),
        also=("get",),
        help="show an organization",
        method="GET",
        path="/organization/info",
        options=(word("ORGANIZATION_ID", "organization_id", "the organization", Place.QUERY),),
    ),
    Command(
        words=("organizations", "create"),
        also=("new", "add"),
        help="make an organization",
        method="POST",
        path="/organization/new",
        options=(
            word("ALIAS", "organization_alias", "name"),
            Option("--organization-id", "organization_id", "id; made up if not given"),
            MODELS,
            *LIMITS,
            METADATA,
        ),
        fields=True,
    ),
)

CUSTOMERS: tuple[Command, ...] = (
    Command(
        words=("customers", "list"),
        help="list end users",
        method="GET",
        path="/customer/list",
        options=(wanted("--search", "search", "by a part of id or alias"),),
        view=View(
            (
                "user_id",
                "alias",
                "spend",
                "max_budget:litellm_budget_table.max_budget",
                "blocked",
                "default_model",
            )
        ),
        pages=Pages(None),
    ),
    Command(
        words=("customers", "info"),
        also=("get",),
        help="show an end user",
        method="GET",
        path="/customer/info",
        options=(word("USER_ID", "end_user_id", "the end user", Place.QUERY),),
    ),
    Command(
        words=("customers", "create"),
        also=("new", "add"),
        help="register an end user",
        method="POST",
        path="/customer/new",
        options=(
            _CUSTOMER_ID,
            Option("--alias", "alias", "name"),
            *BUDGET,
            Option("--budget-id", "budget_id", "or a budget that exists"),
            MODELS,
        ),
        fields=True,
    ),
    Command(
        words=("customers", "block"),
        help="refuse the calls of end users",
        method="POST",
        path="/customer/block",
        options=(_CUSTOMER_IDS,),
        view=View(("user_id", "blocked"), member("blocked_users")),
    ),
    Command(
        words=("customers", "unblock"),
        help="let the calls of end users through again",
        method="POST",
        path="/customer/unblock",
        options=(_CUSTOMER_IDS,),
    ),
)
