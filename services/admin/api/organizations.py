"""The organization routes of the management API (management contract §3.4)."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from services.admin.api.access import ANY_KEY, Relation, access
from services.admin.api.calls import AdminCall, AdminRoute, Shape
from services.admin.api.linked_budgets import changed_link, new_link
from services.admin.api.linked_columns import own_columns
from services.admin.api.organization_fields import (
    IDS_FIELDS,
    INFO_FIELDS,
    NEW_FIELDS,
    PATCH_FIELDS,
    UPDATE_FIELDS,
    read_patch,
)
from services.admin.api.organization_removal import remove_organizations
from services.admin.api.organization_rows import (
    ORGANIZATION_TABLE,
    organization_bodies,
    organization_body,
)
from services.admin.api.parameters import text_parameters
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.respond import answer
from services.admin.api.returns import LIST
from services.admin.api.team_writes import store_permission
from shared.db.audit import Action
from shared.db.organizations import ORGANIZATIONS, list_organizations
from shared.db.rows import Connection
from shared.domain.errors import InvalidRequest, RequestError


async def new(call: AdminCall) -> web.Response:
    """POST /organization/new: makes an organization."""
    values = _said(await call.fields())
    organization_id = values.get("organization_id") or str(uuid.uuid4())
    actor = call.caller.actor

    async def work(connection: Connection) -> dict[str, Any]:
        link = await new_link(call, connection, values, always=True)
        permission_id = await store_permission(connection, values.get("object_permission"))
        row = await ORGANIZATIONS.insert(
            connection,
            {
                **own_columns(values, NEW_FIELDS),
                "organization_id": organization_id,
                "budget_id": link.budget_id,
                "object_permission_id": permission_id,
                "created_by": actor,
                "updated_by": actor,
            },
        )
        body = await organization_body(call, connection, row)
        await link.note(call, connection)
        await call.note(connection, Action.CREATED, ORGANIZATION_TABLE, organization_id, after=row)
        return body

    return await call.write(work)


async def update(call: AdminCall) -> web.Response:
    """PATCH /organization/update: changes an organization."""
    values = _said(await call.fields())
    return await _change(call, values["organization_id"], values)


async def patch(call: AdminCall) -> web.Response:
    """PATCH /v2/organization/{organization_id}: changes an organization."""
    return await _change(call, call.named("organization_id"), read_patch(await call.body()))


async def delete(call: AdminCall) -> web.Response:
    """DELETE /organization/delete: deletes organizations and what is theirs."""
    wanted = sorted(set((await call.fields())["organization_ids"]))
    if not wanted:
        raise InvalidRequest("organization_ids names none", param="organization_ids")

    async def work(connection: Connection) -> list[dict[str, Any]]:
        return await remove_organizations(call, connection, wanted)

    return await call.write(work)


async def list_all(call: AdminCall) -> web.Response:
    """GET /organization/list: the organizations that the caller may see."""
    ids = None if call.caller.sees_all else sorted(call.caller.organizations)
    async with call.services.store.connection() as connection:
        rows = await list_organizations(
            connection, ids, call.query.text("org_id"), call.query.text("org_alias")
        )
        bodies = await organization_bodies(call, connection, rows)
    return answer(bodies)


async def info(call: AdminCall) -> web.Response:
    """GET /organization/info: an organization."""
    organization_id = call.query.text("organization_id")
    if organization_id is None:
        raise Unprocessable([Issue("missing", ("query", "organization_id"), "Field required")])
    call.require(organization_id=organization_id)
    async with call.services.store.connection() as connection:
        row = await ORGANIZATIONS.find(connection, organization_id)
        if row is None:
            raise _not_found()
        body = await organization_body(call, connection, row)
    return answer(body)


async def info_of_several(call: AdminCall) -> web.Response:
    """POST /organization/info: several organizations."""
    wanted = (await call.fields())["organizations"]
    if not wanted:
        raise InvalidRequest("organizations names none", param="organizations")
    for organization_id in wanted:
        call.require(organization_id=organization_id)
    async with call.services.store.connection() as connection:
        rows = await list_organizations(connection, wanted)
        bodies = await organization_bodies(call, connection, rows)
    return answer(bodies)


_NONE: frozenset[str] = frozenset()
_OF_ADMINS = frozenset({"org_admin_only_routes", "org_admin_allowed_routes"})
_ORG_ADMIN = access(Relation.ORG_ADMIN)

ORGANIZATION_ROUTES = (
    AdminRoute(
        "POST", "/organization/new", new, groups=_NONE, errors=Shape.DETAIL, body=NEW_FIELDS
    ),
    AdminRoute(
        "PATCH",
        "/organization/update",
        update,
        groups=_NONE,
        errors=Shape.DETAIL,
        body=UPDATE_FIELDS,
    ),
    AdminRoute(
        "PATCH",
        "/v2/organization/{organization_id}",
        patch,
        groups=_NONE,
        errors=Shape.DETAIL,
        body=PATCH_FIELDS,
    ),
    AdminRoute(
        "DELETE",
        "/organization/delete",
        delete,
        groups=_OF_ADMINS,
        errors=Shape.DETAIL,
        body=IDS_FIELDS,
        returns=LIST,
    ),
    AdminRoute(
        "GET",
        "/organization/list",
        list_all,
        ANY_KEY,
        frozenset({"info_routes"}),
        Shape.DETAIL,
        query=text_parameters("org_id", "org_alias"),
        returns=LIST,
    ),
    AdminRoute(
        "GET",
        "/organization/info",
        info,
        _ORG_ADMIN,
        _OF_ADMINS,
        Shape.DETAIL,
        query=text_parameters("organization_id", required=True),
    ),
    AdminRoute(
        "POST",
        "/organization/info",
        info_of_several,
        _ORG_ADMIN,
        _OF_ADMINS,
        Shape.DETAIL,
        body=INFO_FIELDS,
        returns=LIST,
        reads=True,
    ),
)


async def _change(call: AdminCall, organization_id: str, values: Mapping[str, Any]) -> web.Response:
    async def work(connection: Connection) -> dict[str, Any]:
        before = await ORGANIZATIONS.find(connection, organization_id, lock=True)
        if before is None:
            raise _not_found()
        link = await changed_link(call, connection, before["budget_id"], values)
        columns = own_columns(values, PATCH_FIELDS, before["metadata"])
        columns["budget_id"] = link.budget_id
        if "object_permission" in values:
            columns["object_permission_id"] = await store_permission(
                connection, values["object_permission"]
            )
        after = await ORGANIZATIONS.update(
            connection, (organization_id,), columns, call.caller.actor
        )
        assert after is not None, "its row is locked"
        body = await organization_body(call, connection, after)
        await link.note(call, connection)
        await call.note(
            connection,
            Action.UPDATED,
            ORGANIZATION_TABLE,
            organization_id,
            before=before,
            after=after,
        )
        return body

    return await call.write(work)


def _said(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _not_found() -> RequestError:
    return RequestError("There is no such organization", status=404, param="organization_id")
