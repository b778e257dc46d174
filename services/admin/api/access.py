"""Who may call a route: roles, and relations to the object that a call is about.

The rows of the route tables hold an `Access` each; the checks and the matrix of the tests are made
from them alone (management contract §2.4, §5). What a row does not allow is refused.
"""

from __future__ import annotations

from enum import StrEnum

from attrs import frozen


class Role(StrEnum):
    """What a user is for the whole gateway. The values are stored and appear in answers."""

    PROXY_ADMIN = "proxy_admin"
    PROXY_ADMIN_VIEWER = "proxy_admin_viewer"
    INTERNAL_USER = "internal_user"
    INTERNAL_USER_VIEWER = "internal_user_viewer"


class Relation(StrEnum):
    """What a caller is to the object that a call is about."""

    OWNER = "owner"
    TEAM_ADMIN = "team_admin"
    TEAM_MEMBER = "team_member"
    ORG_ADMIN = "org_admin"


@frozen
class Access:
    """Who may call a route, besides proxy admins, who may call all but `master_only` ones.

    `roles` may call it about anything that the handler shows them; `relations` only about objects
    to which they are that (`AdminCall.require`). A proxy admin viewer may read what GET shows.
    `named` is who else may with a key whose `allowed_routes` name the route.
    """

    roles: frozenset[Role] = frozenset()
    relations: frozenset[Relation] = frozenset()
    master_only: bool = False
    named: frozenset[Role | Relation] = frozenset()

    def for_key(self, *, names_it: bool) -> Access:
        """Who may with a key whose `allowed_routes` name the route, or do not."""
        if not names_it or not self.named:
            return self
        wider = access(*self.roles, *self.relations, *self.named)
        return Access(wider.roles, wider.relations, self.master_only)


def access(*who: Role | Relation, named: tuple[Role | Relation, ...] = ()) -> Access:
    """An `Access` of roles and relations."""
    return Access(
        frozenset(each for each in who if isinstance(each, Role)),
        frozenset(each for each in who if isinstance(each, Relation)),
        named=frozenset(named),
    )


ADMIN_ONLY = Access()
MASTER_ONLY = Access(master_only=True)
# Any valid key; the handler shows each caller its own.
ANY_KEY = access(*Role)


def role_of(text: str | None) -> Role:
    """A stored role; one that is unknown or absent counts as the internal user's."""
    try:
        return Role(text or "")
    except ValueError:
        return Role.INTERNAL_USER
