"""The stored user whom a token names."""

from __future__ import annotations

from shared.config.jwt_schema import JwtSettings
from shared.db.jwt_users import add_user, find_user
from shared.db.rows import Queryable
from shared.domain.errors import AuthenticationFailed
from shared.domain.keys import MASTER_USER_ID
from shared.keys.jwt_claims import Identity


class UnknownUser(AuthenticationFailed):
    """The token is good, and its user is not stored."""

    def __init__(self) -> None:
        super().__init__("The user whom the token names is not known here")


async def user_of(
    identity: Identity, settings: JwtSettings, store: Queryable, source_ip: str | None
) -> str | None:
    """The user's id, made if need be and wanted; `None` where the token names none. An admin's user
    need not be stored. Raises `AuthenticationFailed`, among it `UnknownUser`."""
    name = identity.user_id
    if name is None:
        return None
    found = await find_user(store, name, identity.email)
    if found is None and not identity.admin and name != MASTER_USER_ID:
        if not settings.user_id_upsert:
            raise UnknownUser
        await add_user(store, name, identity.email, by=identity.name, source_ip=source_ip)
        found = await find_user(store, name, identity.email)
        if found is None:
            raise UnknownUser
    user_id = found or name
    if user_id == MASTER_USER_ID:
        raise AuthenticationFailed("The token names a user whom no token can name")
    return user_id
