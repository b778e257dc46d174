"""Routes of the management API as data, and the calls that reach their handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, TypeAlias

import msgspec
from aiohttp import web
from attrs import frozen

from services.admin.api.access import ADMIN_ONLY, Access
from services.admin.api.audit import clean
from services.admin.api.auth import Caller, admit, authenticate
from services.admin.api.body import Field, read_fields
from services.admin.api.commits import Work
from services.admin.api.deps import ADMIN, AdminServices
from services.admin.api.parameters import Parameter
from services.admin.api.problems import problem
from services.admin.api.query import Query
from services.admin.api.refusals import Detail, Unprocessable
from services.admin.api.respond import answer, read_object
from services.admin.api.returns import OBJECT, Returns
from services.admin.api.wait import WAIT_PARAMETERS, read_wait, with_propagation
from shared.db.audit import Action, AuditEntry, append
from shared.db.rows import Connection
from shared.domain.capabilities import RouteClass
from shared.domain.errors import GatewayError, InvalidRequest, PermissionDenied, RequestError
from shared.gateway.route_specs import RouteSpec

Change: TypeAlias = "tuple[str, Mapping[str, Any] | None, Mapping[str, Any] | None]"


class Shape(Enum):
    """How a handler's errors look (management contract §3.0)."""

    PROXY = 'W: {"error": {…}}'
    DETAIL = 'D: {"detail": {"error": "…"}}'
    PLAIN_DETAIL = 'D: {"detail": "…"}'
    PROBLEM = "problem details (RFC 9457), but for the 422"


@frozen
class AdminRoute:
    """A route with its handler and who may call it.

    `groups` are the names under which a key's `allowed_routes` may hold it (contract §2). `body`
    and `query` are what its handler reads, `returns` is what it answers; without a `body` it reads
    none. All but GET and those that only `reads` obey `?wait=applied`.
    """

    method: str
    path: str
    handler: AdminHandler
    access: Access = ADMIN_ONLY
    groups: frozenset[str] = frozenset({"management_routes"})
    errors: Shape = Shape.PROXY
    body: tuple[Field, ...] | None = None
    query: tuple[Parameter, ...] = ()
    returns: Returns = OBJECT
    reads: bool = False

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """Every parameter of its query."""
        writes = self.method != "GET" and not self.reads
        return (*self.query, *WAIT_PARAMETERS) if writes else self.query

    @property
    def spec(self) -> RouteSpec:
        """The route as the matrix knows it."""
        return RouteSpec(self.method, self.path, RouteClass.MANAGEMENT, self.handler.__name__)


@frozen
class OpenRoute:
    """A route without a gate: it asks for no key, and nobody is its caller.

    It stands in `OPEN_ROUTES` alone. Its handler takes an `OpenCall`, those of `AdminRoute` an
    `AdminCall`, so that neither can be registered in the place of the other.
    """

    method: str
    path: str
    handler: OpenHandler
    errors: Shape = Shape.PROXY
    body: tuple[Field, ...] | None = None
    query: tuple[Parameter, ...] = ()
    returns: Returns = OBJECT


@frozen
class OpenCall:
    """A call that nobody has admitted. `now` is the database's time, aware UTC."""

    request: web.Request
    services: AdminServices
    now: datetime

    @property
    def query(self) -> Query:
        """The query string's parameters."""
        return Query(self.request.query)

    def named(self, name: str) -> str:
        """A parameter of the path."""
        value = self.request.match_info[name].encode("utf-8", "replace").decode()
        if "\x00" in value:
            raise InvalidRequest(f"{name} must not hold the character U+0000", param=name)
        return value

    async def body(self) -> dict[str, Any]:
        """The JSON object that is the body."""
        return await read_object(self.request)

    async def write(self, work: Work[Any], *, status: int = 200) -> web.Response:
        """Commits work in a transaction of its own, and answers with what it gave.

        `?wait=applied` is obeyed (see `wait`). The answer to a body that is no object says it in
        the header `x-meridian-propagation`.
        """
        wait = read_wait(self.query)
        committed = await self.services.commits.alone(work, numbered=wait.wanted)
        body = committed.result
        if isinstance(body, dict):
            shown = await with_propagation(body, committed, wait, self.services.commits)
            return answer(shown, status)
        response = answer(body, status)
        applied = await with_propagation({}, committed, wait, self.services.commits)
        if applied:
            response.headers["x-meridian-propagation"] = msgspec.json.encode(
                applied["propagation"]
            ).decode()
        return response

    async def note_by(
        self,
        connection: Connection,
        user_id: str,
        action: Action,
        table: str,
        object_id: str,
        *,
        after: Mapping[str, Any],
    ) -> None:
        """Adds a change to the audit log that a user made who proved to be it without a key."""
        entry = AuditEntry(
            changed_by=user_id,
            changed_by_api_key=None,
            source_ip=self.request.remote,
            route=self.request.path,
            action=action,
            table=table,
            object_id=object_id,
            before=None,
            after=clean(None, after)[1],
        )
        await append(connection, entry)


@frozen
class AdminCall(OpenCall):
    """An admitted call."""

    caller: Caller
    route: AdminRoute

    async def fields(self) -> dict[str, Any]:
        """The sent fields of the route's body, clean."""
        assert self.route.body is not None, f"{self.route.path} names no fields"
        return read_fields(await self.body(), self.route.body)

    def require(
        self,
        *,
        user_id: str | None = None,
        token: str | None = None,
        team_id: str | None = None,
        organization_id: str | None = None,
    ) -> None:
        """Raises `PermissionDenied` unless the route's row lets the caller at an object with these
        owners."""
        caller = self.caller
        routes = caller.principal.key.allowed_routes
        allowed = self.route.access.for_key(names_it=bool(routes))
        if caller.is_admin or (caller.sees_all and self.request.method == "GET"):
            return
        relations = caller.relations(
            user_id=user_id, token=token, team_id=team_id, organization_id=organization_id
        )
        if not relations & allowed.relations:
            raise PermissionDenied("This is not the caller's to see or to change")

    async def note(
        self,
        connection: Connection,
        action: Action,
        table: str,
        object_id: str,
        *,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        """Adds a change to the audit log, without its secrets; the last step of the work. Of an
        update only the members that differ are kept."""
        await self.note_all(connection, action, table, [(object_id, before, after)])

    async def note_all(
        self, connection: Connection, action: Action, table: str, changes: Iterable[Change]
    ) -> None:
        """Adds changes of many objects to the audit log: each one's id, before and after."""
        await append(connection, *self.entries(action, table, changes))

    def entries(self, action: Action, table: str, changes: Iterable[Change]) -> list[AuditEntry]:
        """The same as entries, for work that adds them with those of others."""
        caller = self.caller
        entries = []
        for object_id, before, after in changes:
            old, new = clean(before, after)
            entries.append(
                AuditEntry(
                    changed_by=caller.actor,
                    actor=caller.identity,
                    changed_by_api_key=caller.token,
                    source_ip=caller.source_ip,
                    route=self.route.path,
                    action=action,
                    table=table,
                    object_id=object_id,
                    before=old,
                    after=new,
                )
            )
        return entries


AdminHandler: TypeAlias = Callable[[AdminCall], Awaitable[web.Response]]
OpenHandler: TypeAlias = Callable[[OpenCall], Awaitable[web.Response]]


def register(app: web.Application, services: AdminServices, routes: tuple[AdminRoute, ...]) -> None:
    """Adds routes. Errors need `error_middleware` around them."""
    app[ADMIN] = services
    for route in routes:
        app.router.add_route(route.method, route.path, _admitted(route))


def register_open(app: web.Application, routes: tuple[OpenRoute, ...]) -> None:
    """Adds routes that anybody may call, beside those of `register`."""
    for route in routes:
        app.router.add_route(route.method, route.path, _unguarded(route))


def _admitted(route: AdminRoute) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        services = request.app[ADMIN]
        caller = await authenticate(request, services)
        admit(caller, route.method, route.path, route.groups, route.access)
        call = AdminCall(request, services, services.clock.utc(), caller, route)
        return await _answered(route.handler(call), route.errors)

    return handle


def _unguarded(route: OpenRoute) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        services = request.app[ADMIN]
        call = OpenCall(request, services, services.clock.utc())
        return await _answered(route.handler(call), route.errors)

    return handle


async def _answered(handling: Awaitable[web.Response], errors: Shape) -> web.Response:
    try:
        return await handling
    except (Unprocessable, Detail):
        raise
    except GatewayError as error:
        if errors is Shape.PROBLEM:
            return problem(error)
        if errors is Shape.PROXY or not isinstance(error, RequestError):
            raise
        raise _detail(error, errors) from error


def _detail(error: RequestError, shape: Shape) -> Detail:
    text = error.message
    detail = Detail(error.status, text if shape is Shape.PLAIN_DETAIL else {"error": text})
    detail.headers = error.headers
    return detail
