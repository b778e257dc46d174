"""Kinds of callers of the management API, and what the rows of its routes say of each."""

from __future__ import annotations

import asyncpg
from attrs import frozen

from services.admin.api.access import Relation, Role
from services.admin.api.calls import AdminRoute
from services.admin.api.routes import ROUTES
from shared.domain.keys import hash_key
from tests.support.admin_api import MASTER

_USERS = """
insert into app_user (user_id, user_role) values
    ('admin', 'proxy_admin'), ('viewer', 'proxy_admin_viewer'), ('internal', 'internal_user'),
    ('internal-viewer', 'internal_user_viewer'), ('odd', 'superuser'), ('no-role', null),
    ('team-admin', 'internal_user'), ('member', 'internal_user'),
    ('org-admin', 'internal_user'), ('org-member', 'internal_user'),
    ('viewing-team-admin', 'internal_user_viewer')
"""
_TEAMS = """
insert into team (team_id, blocked) values ('own', false), ('blocked', true)
"""
_TEAM_MEMBERS = """
insert into team_member (team_id, user_id, role) values
    ('own', 'team-admin', 'admin'), ('own', 'viewing-team-admin', 'admin'),
    ('own', 'member', 'user')
"""
_ORGANIZATIONS = """
insert into organization (organization_id, organization_alias) values ('own', 'own')
"""
_ORGANIZATION_MEMBERS = """
insert into organization_member (organization_id, user_id, user_role) values
    ('own', 'org-admin', 'org_admin'), ('own', 'org-member', 'internal_user')
"""
_KEY = """
insert into virtual_key (token, key_name, user_id, team_id, blocked, expires, allowed_routes)
values ($1, 'sk-...name', $2, $3, $4, case when $5 then now() - interval '1 s' end, $6)
"""


@frozen(kw_only=True)
class Kind:
    """A kind of caller. `refused` is the type of the 401 that its key gets everywhere; `names` are
    the `allowed_routes` of its key."""

    user: str | None = None
    role: Role = Role.INTERNAL_USER
    relations: frozenset[Relation] = frozenset({Relation.OWNER})
    master: bool = False
    refused: str | None = None
    team: str | None = None
    blocked: bool = False
    expired: bool = False
    names: tuple[str, ...] = ()
    plain: str | None = None


def related(*relations: Relation) -> frozenset[Relation]:
    """What a caller is to some object; everybody owns their key."""
    return frozenset({Relation.OWNER, *relations})


_MEMBER = related(Relation.TEAM_MEMBER)
_TEAM_ADMIN = related(Relation.TEAM_MEMBER, Relation.TEAM_ADMIN)
EVERY_PATH = tuple(route.path for route in ROUTES)
KINDS = {
    "master": Kind(master=True, plain=MASTER),
    "admin": Kind(user="admin", role=Role.PROXY_ADMIN),
    "viewer": Kind(user="viewer", role=Role.PROXY_ADMIN_VIEWER),
    "internal user": Kind(user="internal"),
    "internal user viewer": Kind(user="internal-viewer", role=Role.INTERNAL_USER_VIEWER),
    "unknown role": Kind(user="odd"),
    "unknown user": Kind(user="not-stored"),
    "key without user": Kind(),
    "team admin": Kind(user="team-admin", relations=_TEAM_ADMIN),
    "viewing team admin": Kind(
        user="viewing-team-admin", role=Role.INTERNAL_USER_VIEWER, relations=_TEAM_ADMIN
    ),
    "team member": Kind(user="member", relations=_MEMBER),
    "org admin": Kind(user="org-admin", relations=related(Relation.ORG_ADMIN)),
    "user's key that names every route": Kind(user="internal", names=EVERY_PATH),
    "viewer's key that names every route": Kind(
        user="viewer", role=Role.PROXY_ADMIN_VIEWER, names=EVERY_PATH
    ),
    "admin's key that names another route": Kind(
        user="admin", role=Role.PROXY_ADMIN, names=("/no/such/route",)
    ),
    "admin's key for LLM routes": Kind(
        user="admin", role=Role.PROXY_ADMIN, names=("llm_api_routes",)
    ),
    "blocked key": Kind(user="admin", blocked=True, refused="auth_error"),
    "expired key": Kind(user="admin", expired=True, refused="expired_key"),
    "key of a blocked team": Kind(user="admin", team="blocked", refused="auth_error"),
    "unknown key": Kind(plain="sk-nobody-has-made-this-one", refused="token_not_found_in_db"),
    "no key at all": Kind(plain="", refused="auth_error"),
    "something that is no key": Kind(plain="not-a-key", refused="auth_error"),
}


def asks_for_permission(route: AdminRoute) -> bool:
    """Whether the route is for those who see all, and keys with a permission that none here has
    (contract §2.4 e); its row lets everybody in, its handler refuses."""
    return "global_spend_tracking_routes" in route.groups and hasattr(route.handler, "__wrapped__")


def verdict(kind: Kind, route: AdminRoute) -> str:
    """What the row says of a caller: `in`, or how it is refused."""
    if kind.refused is not None:
        return "401"
    if kind.master:
        return "in"
    row = route.access
    if row.master_only:
        return "401"
    if kind.names and route.path not in kind.names:
        return "403 detail"
    if asks_for_permission(route) and not kind.role.value.startswith("proxy_admin"):
        return "403" if kind.names else "401"
    roles, relations = set(row.roles), set(row.relations)
    if kind.names:
        roles |= {each for each in row.named if isinstance(each, Role)}
        relations |= {each for each in row.named if isinstance(each, Relation)}
    if kind.role is Role.PROXY_ADMIN or kind.role in roles:
        return "in"
    if kind.role is Role.PROXY_ADMIN_VIEWER:
        reads = route.method == "GET" or relations & (kind.relations - {Relation.OWNER})
        return "in" if reads else "403"
    if relations & kind.relations:
        return "in"
    return "403" if kind.names else "401"


async def add_owners(db: asyncpg.Connection) -> None:
    """Stores the users, teams and organizations that the kinds of callers are about."""
    for statement in (_USERS, _TEAMS, _TEAM_MEMBERS, _ORGANIZATIONS, _ORGANIZATION_MEMBERS):
        await db.execute(statement)


async def key_of(db: asyncpg.Connection, kind: Kind) -> str:
    """The plain key that the caller sends."""
    if kind.plain is not None:
        return kind.plain
    plain = "sk-key-of-the-matrix-0123456789"
    args = (kind.user, kind.team, kind.blocked, kind.expired, list(kind.names))
    await db.execute(_KEY, hash_key(plain), *args)
    return plain
