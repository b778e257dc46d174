"""Routes of the management API as data, and the calls that reach their handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, TypeAlias

import msgspec
from aiohttp import web
from attrs import frozen

from services.admin.api.access import ADMIN_ONLY, Access
from services.admin.api.audit import clean
from services.admin.api.auth import Caller, admit, authenticate
from services.admin.api.commits import Work
from services.admin.api.deps import ADMIN, AdminServices
from services.admin.api.query import Query
from services.admin.api.refusals import Detail, Unprocessable
from services.admin.api.respond import answer, read_object
from services.admin.api.wait import read_wait, with_propagation
from shared.db.audit import Action, AuditEntry, append
from shared.db.rows import Connection
from shared.domain.capabilities import RouteClass
from shared.domain.errors import PermissionDenied, RequestError
from shared.gateway.route_specs import RouteSpec


class Shape(Enum):
    """How a handler's errors look (management contract §3.0)."""

    PROXY = 'W: {"error": {…}}'
    DETAIL = 'D: {"detail": {"error": "…"}}'
    PLAIN_DETAIL = 'D: {"detail": "…"}'


@frozen
class AdminRoute:
    """A route with its handler and who may call it.

    `groups` are the names under which a key's `allowed_routes` may hold it (contract §2).
    """

    method: str
    path: str
    handler: AdminHandler
    access: Access = ADMIN_ONLY
    groups: frozenset[str] = frozenset({"management_routes"})
    errors: Shape = Shape.PROXY

    @property
    def spec(self) -> RouteSpec:
        """The route as the matrix knows it."""
        return RouteSpec(self.method, self.path, RouteClass.MANAGEMENT, self.handler.__name__)


@frozen
class AdminCall:
    """An admitted call. `now` is the database's time, aware UTC."""

    request: web.Request
    services: AdminServices
    caller: Caller
    route: AdminRoute
    now: datetime

    @property
    def query(self) -> Query:
        """The query string's parameters."""
        return Query(self.request.query)

    def named(self, name: str) -> str:
        """A parameter of the path."""
        return self.request.match_info[name].encode("utf-8", "replace").decode()

    async def body(self) -> dict[str, Any]:
        """The JSON object that is the body."""
        return await read_object(self.request)

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
        caller, allowed = self.caller, self.route.access
        if caller.is_admin or (caller.sees_all and self.request.method == "GET"):
            return
        relations = caller.relations(
            user_id=user_id, token=token, team_id=team_id, organization_id=organization_id
        )
        if not relations & allowed.relations:
            raise PermissionDenied("This is not the caller's to see or to change")

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
        caller = self.caller
        old, new = clean(before, after)
        entry = AuditEntry(
            changed_by=caller.actor,
            changed_by_api_key=caller.token,
            source_ip=caller.source_ip,
            route=self.route.path,
            action=action,
            table=table,
            object_id=object_id,
            before=old,
            after=new,
        )
        await append(connection, entry)


AdminHandler: TypeAlias = Callable[[AdminCall], Awaitable[web.Response]]


def register(app: web.Application, services: AdminServices, routes: tuple[AdminRoute, ...]) -> None:
    """Adds routes. Errors need `error_middleware` around them."""
    app[ADMIN] = services
    for route in routes:
        app.router.add_route(route.method, route.path, _admitted(route))


def _admitted(route: AdminRoute) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def handle(request: web.Request) -> web.Response:
        services = request.app[ADMIN]
        caller = await authenticate(request, services)
        admit(caller, route.method, route.path, route.groups, route.access)
        call = AdminCall(request, services, caller, route, services.clock.utc())
        try:
            return await route.handler(call)
        except (Unprocessable, Detail):
            raise
        except RequestError as error:
            if route.errors is Shape.PROXY:
                raise
            raise _detail(error, route.errors) from error

    return handle


def _detail(error: RequestError, shape: Shape) -> Detail:
    text = error.message
    return Detail(error.status, text if shape is Shape.PLAIN_DETAIL else {"error": text})
