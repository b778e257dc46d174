"""What the handlers of the management API work with."""

from __future__ import annotations

from aiohttp import web
from attrs import field, frozen

from services.admin.api.commits import Commits
from services.admin.api.key_policy import KeyRules
from shared.db.pool import Store
from shared.domain.clock import Clock


@frozen(kw_only=True)
class AdminServices:
    """One per application, under the key `ADMIN`.

    `master_token` is the stored form (hash) of the master key; `None` lets every caller in, which
    only an operator who permits an unset master key gets. `key_header` is the operator's own
    header for keys, in lower case.
    """

    store: Store
    clock: Clock
    commits: Commits
    rules: KeyRules = KeyRules()
    master_token: str | None = field(repr=False)
    key_header: str | None = None


ADMIN: web.AppKey[AdminServices] = web.AppKey("admin", AdminServices)
