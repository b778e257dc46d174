"""What the rows of the key routes have in common."""

from __future__ import annotations

from services.admin.api.access import Relation, Role, access

KEY_GROUPS = frozenset({"management_routes", "key_management_routes", "internal_user_routes"})
KEY_INFO_GROUPS = KEY_GROUPS | {"info_routes"}
KEY_WRITERS = access(Role.INTERNAL_USER, Relation.ORG_ADMIN)
"""Who gets to the handlers that write keys; which keys is theirs to say (`key_access`)."""
