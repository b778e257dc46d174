"""What the handlers of the management API work with."""

from __future__ import annotations

from aiohttp import web
from attrs import field, frozen

from services.admin.api.attempts import Attempts
from services.admin.api.commits import Commits
from services.admin.api.jwt_login import JwtLogin
from services.admin.api.key_policy import KeyRules
from services.admin.api.model_catalog import ModelCatalog
from services.admin.api.rule_book import RuleBook
from services.admin.api.team_rules import TeamRules
from services.admin.api.user_rules import UserRules
from shared.db.pool import Store
from shared.domain.clock import Clock


@frozen(kw_only=True)
class AdminServices:
    """One per application, under the key `ADMIN`.

    `master_token` is the stored form (hash) of the master key; `None` lets every caller in, which
    only an operator who permits an unset master key gets. `key_header` is the operator's own
    header for keys, in lower case. `jwt` lets tokens in, where the operator does. Attempts at
    invitations count by address, at passwords by user.
    """

    store: Store
    clock: Clock
    commits: Commits
    book: RuleBook = field(factory=RuleBook)
    models: ModelCatalog = field(factory=ModelCatalog)
    master_token: str | None = field(repr=False)
    key_header: str | None = None
    jwt: JwtLogin | None = None
    invitation_attempts: Attempts = field(factory=lambda: Attempts(30, 60.0))
    password_attempts: Attempts = field(factory=lambda: Attempts(10, 300.0))

    @property
    def rules(self) -> KeyRules:
        """The operator's rules on keys, as they are now."""
        return self.book.rules.keys

    @property
    def user_rules(self) -> UserRules:
        """Those on users."""
        return self.book.rules.users

    @property
    def team_rules(self) -> TeamRules:
        """Those on teams."""
        return self.book.rules.teams


ADMIN: web.AppKey[AdminServices] = web.AppKey("admin", AdminServices)
