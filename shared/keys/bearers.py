"""Those who come with a token of a sign-in provider instead of a key, as this process knows them.

The first use of a token checks it and finds its user. After that it costs look-ups, until it
expires, until its check is as old as signing keys may be, or until the feed names its user; a
token that is checked again needs the store only if its user may be another by now. Only digests of
tokens are held.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Protocol

import msgspec
from attrs import evolve, frozen

from shared.config.jwt_schema import JwtSettings
from shared.db.rows import Queryable
from shared.domain.clock import Clock
from shared.domain.errors import AuthenticationFailed, Overloaded, PermissionDenied
from shared.domain.keys import OwnerKind, Principal, VirtualKey
from shared.keys.cache import MISSING, Missing
from shared.keys.changes import Subscriber, together
from shared.keys.jwt_claims import Identity, identity_of
from shared.keys.jwt_users import UnknownUser, user_of
from shared.keys.levels import Policy
from shared.keys.principal import check_usable
from shared.keys.stand_ins import StandIns

_CAPACITY = 20_000
_MOST_CHECKS = 2048
# A user who is not stored is not looked for more often.
_UNKNOWN_S = 2.0
# What a check of the times allows; a token is not refused earlier than that.
_LEEWAY_S = 30.0
_VIEWER = "proxy_admin_viewer"


class Verifier(Protocol):
    """Says what a good token claims."""

    async def verify(self, token: str) -> Mapping[str, Any]:
        """The claims; raises `AuthenticationFailed` for a token that is not good."""

    async def close(self) -> None:
        """Ends what is under way."""


@frozen(kw_only=True)
class Bearer:
    """The holder of a good token. `keys` stand in for it, one for each team that it names, in its
    order, or one without a team. The token is good until `until_s` (epoch), and is to be checked
    again from `check_mono`."""

    identity: Identity
    user_id: str | None
    keys: tuple[VirtualKey, ...]
    until_s: float
    check_mono: float

    def keys_for(self, team_id: str | None) -> tuple[VirtualKey, ...]:
        """Those of a team that the request names, if it does. Raises `PermissionDenied` for a team
        that is not the token's; an admin may name any."""
        if team_id is None:
            return self.keys
        if self.identity.admin:
            routes = self.keys[0].allowed_routes
            return (_stand_in(self.identity, self.user_id, team_id, routes),)
        found = tuple(key for key in self.keys if key.team_id == team_id)
        if not found:
            raise PermissionDenied("The token does not name the team that the request asks for.")
        return found


class Bearers:
    """For one event loop. `store` is asked for users, `stand_ins` hold what they own."""

    def __init__(
        self,
        verifier: Verifier,
        settings: JwtSettings,
        store: Queryable,
        stand_ins: StandIns,
        clock: Clock,
    ) -> None:
        self.verifier = verifier
        self._settings = settings
        self._store = store
        self._stand_ins = stand_ins
        self._clock = clock
        self._known = _Known(_CAPACITY)
        self._unknown: dict[str, float] = {}
        self._checks: dict[str, asyncio.Task[Bearer]] = {}
        self._changes = 0

    def get(self, token: str) -> Bearer | None:
        """Who holds a token of which the digest is known; `None` for one that must be checked.
        Raises `UnknownUser` while there is none."""
        bearer = self._known.get(token)
        if bearer is None:
            if self._unknown and self._unknown.get(token, 0.0) > self._clock.mono():
                raise UnknownUser
            return None
        fresh = self._clock.now() < bearer.until_s and self._clock.mono() < bearer.check_mono
        return bearer if fresh else None

    async def find(self, token: str, plain: str, source_ip: str | None) -> Bearer:
        """The same, checking the token, once for all who wait. Raises `AuthenticationFailed`,
        `IssuerUnavailable`, `StoreUnavailable` or `Overloaded`."""
        known = self.get(token)
        if known is not None:
            return known
        check = self._checks.get(token)
        if check is None:
            if len(self._checks) >= _MOST_CHECKS:
                raise Overloaded("Too many tokens are being checked.")
            loop = asyncio.get_running_loop()
            check = self._checks[token] = loop.create_task(self._check(token, plain, source_ip))
            check.add_done_callback(lambda task: self._checked(token, task))
        # One caller going away must not end the others' wait.
        return await asyncio.shield(check)

    def principals(
        self, bearer: Bearer, team_id: str | None
    ) -> tuple[Principal, ...] | Literal[Missing.MISSING]:
        """As whom a holder may call now, in the order of its teams; never empty. Raises
        `AuthenticationFailed`, `PermissionDenied` or `StoreUnavailable`."""
        keys = bearer.keys_for(team_id)
        if bearer.identity.admin and team_id is None:
            return (Principal(key=keys[0], master=True),)
        found: list[Principal | None] = []
        for key in keys:
            principal = self._stand_ins.get(key)
            if principal is MISSING:
                return MISSING
            found.append(principal)
        return self._usable(bearer, found)

    async def find_principals(self, bearer: Bearer, team_id: str | None) -> tuple[Principal, ...]:
        """The same, reading what is not known."""
        known = self.principals(bearer, team_id)
        if known is not MISSING:
            return known
        keys = bearer.keys_for(team_id)
        found = await asyncio.gather(*(self._stand_ins.find(key) for key in keys))
        return self._usable(bearer, found)

    def obey(self, policy: Policy) -> None:
        """From now on the operator says this of limits."""
        self._stand_ins.obey(policy)

    def contact(self, mono: float) -> None:
        """The feed was applied to its head at this monotonic time."""
        self._stand_ins.contact(mono)

    def subscribers(self) -> Mapping[str, Subscriber]:
        """Kind of change → the call that takes the changed objects out of service."""
        own = {OwnerKind.USER.value: self._users_changed}
        return together(own, self._stand_ins.subscribers())

    async def close(self) -> None:
        """Ends checks that are under way."""
        checks = list(self._checks.values())
        for check in checks:
            check.cancel()
        await asyncio.gather(*checks, return_exceptions=True)
        await self._stand_ins.close()
        await self.verifier.close()

    async def _check(self, token: str, plain: str, source_ip: str | None) -> Bearer:
        claims = await self.verifier.verify(plain)
        check_mono = self._clock.mono() + self._settings.public_key_ttl
        known = self._known.get(token)
        if known is not None:
            bearer = evolve(known, check_mono=check_mono)
            self._known.put(token, bearer)
            return bearer
        identity = identity_of(claims, self._settings)
        changes = self._changes
        try:
            user_id = await user_of(identity, self._settings, self._store, source_ip)
        except UnknownUser:
            if changes == self._changes:
                self._keep_unknown(token)
            raise
        bearer = Bearer(
            identity=identity,
            user_id=user_id,
            keys=_stand_ins(identity, user_id, self._settings),
            until_s=float(claims["exp"]) + _LEEWAY_S,
            check_mono=check_mono,
        )
        # What was read while users changed may be older than the change.
        if changes == self._changes:
            self._known.put(token, bearer)
        return bearer

    def _checked(self, token: str, check: asyncio.Task[Bearer]) -> None:
        del self._checks[token]
        if not check.cancelled():
            # Heard of even if nobody waits any more.
            check.exception()

    def _keep_unknown(self, token: str) -> None:
        self._unknown.pop(token, None)
        if len(self._unknown) >= _CAPACITY:
            del self._unknown[next(iter(self._unknown))]
        self._unknown[token] = self._clock.mono() + _UNKNOWN_S

    def _users_changed(self, ids: tuple[str, ...] | None) -> None:
        self._changes += 1
        self._unknown.clear()
        self._known.drop(ids)

    def _usable(self, bearer: Bearer, found: Iterable[Principal | None]) -> tuple[Principal, ...]:
        """Those that may be used now; the first one's refusal if none may."""
        usable: list[Principal] = []
        refusal: AuthenticationFailed | None = None
        for principal in found:
            try:
                usable.append(_in_place(bearer, principal, self._clock.now()))
            except AuthenticationFailed as error:
                refusal = refusal or error
        if not usable:
            assert refusal is not None, "a bearer has at least one key"
            raise refusal
        return tuple(usable)


class _Known:
    """Bearers by their tokens' digests, at most `capacity`, those not used for longest going
    first; and which of them a change of users is about."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._bearers: OrderedDict[str, Bearer] = OrderedDict()
        # By the id that the token names. Who was found by something else may become anybody.
        self._by_id: dict[str, set[str]] = {}
        self._by_other: dict[str, None] = {}

    def get(self, token: str) -> Bearer | None:
        bearer = self._bearers.get(token)
        if bearer is not None:
            self._bearers.move_to_end(token)
        return bearer

    def put(self, token: str, bearer: Bearer) -> None:
        self._remove(token)
        if len(self._bearers) >= self._capacity:
            self._remove(next(iter(self._bearers)))
        self._bearers[token] = bearer
        if bearer.user_id is None:
            return
        if bearer.user_id == bearer.identity.user_id:
            self._by_id.setdefault(bearer.user_id, set()).add(token)
        else:
            self._by_other[token] = None

    def drop(self, user_ids: Iterable[str] | None) -> None:
        """Forgets those whose user may be another by now; `None` is any user."""
        names = list(self._by_id) if user_ids is None else user_ids
        tokens = [token for name in names for token in self._by_id.get(name, ())]
        for token in (*tokens, *self._by_other):
            self._remove(token)

    def _remove(self, token: str) -> None:
        bearer = self._bearers.pop(token, None)
        if bearer is None or bearer.user_id is None:
            return
        self._by_other.pop(token, None)
        tokens = self._by_id.get(bearer.user_id)
        if tokens is not None:
            tokens.discard(token)
            if not tokens:
                del self._by_id[bearer.user_id]


def _in_place(bearer: Bearer, principal: Principal | None, now_s: float) -> Principal:
    """The principal; raises `AuthenticationFailed` for a holder whose user, team or organization is
    not there, or may not be used."""
    admin = bearer.identity.admin
    key = None if principal is None else principal.key
    if (
        principal is None
        or key is None
        or (key.team_id is not None and principal.team is None)
        or (key.organization_id is not None and principal.owners.organization is None)
        or (key.user_id is not None and principal.user is None and not admin)
    ):
        raise AuthenticationFailed(
            "The user, team or organization that the token names is not known here"
        )
    check_usable(principal, now_s)
    return evolve(principal, master=True) if admin else principal


def check_role(bearer: Bearer, principal: Principal) -> None:
    """Raises `PermissionDenied` for those who may only look at things (management contract §5)."""
    stored = None if principal.user is None else principal.user.user_role
    if not principal.master and (bearer.identity.role or stored) == _VIEWER:
        raise PermissionDenied("A proxy admin viewer may not call models.")


def _stand_ins(
    identity: Identity, user_id: str | None, settings: JwtSettings
) -> tuple[VirtualKey, ...]:
    if identity.admin:
        return (_stand_in(identity, user_id, None, settings.admin_allowed_routes),)
    routes = () if user_id is not None else settings.team_allowed_routes
    return tuple(_stand_in(identity, user_id, team, routes) for team in identity.teams or (None,))


def _stand_in(
    identity: Identity, user_id: str | None, team_id: str | None, routes: tuple[str, ...]
) -> VirtualKey:
    """A key whose name is the same for all tokens of a holder, in one team. It cannot be the name
    of a stored key, which is the digest of a text that begins with `sk-`."""
    name = identity.name if user_id is None else f"jwt:{user_id}"
    parts = (name, user_id, team_id, identity.organization_id, identity.admin)
    return VirtualKey(
        token=hashlib.sha256(msgspec.json.encode(parts)).hexdigest(),
        key_alias=name,
        user_id=user_id,
        team_id=team_id,
        organization_id=identity.organization_id,
        allowed_routes=routes,
    )
