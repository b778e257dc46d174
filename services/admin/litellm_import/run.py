"""An import from beginning to end: one snapshot of the source, one transaction here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from decimal import Decimal
from types import MappingProxyType

from attrs import define, evolve, field

from services.admin.litellm_import import daily
from services.admin.litellm_import.batch import Batch
from services.admin.litellm_import.keys import DELETED_KEYS, DELETED_TEAMS, DEPRECATED_KEYS, KEYS
from services.admin.litellm_import.kinds import Circumstances, Kind
from services.admin.litellm_import.members import MEMBER_SPEND, TEAM_MEMBERS
from services.admin.litellm_import.models import CREDENTIALS, MODELS
from services.admin.litellm_import.objects import (
    ACCESS_GROUPS,
    BUDGETS,
    END_USERS,
    MODEL_ACCESS_GROUPS,
    ORGANIZATION_MEMBERS,
    ORGANIZATIONS,
    PERMISSIONS,
    PROJECTS,
    TAGS,
    TEAMS,
    USERS,
)
from services.admin.litellm_import.report import Report, decimal
from services.admin.litellm_import.settings import SETTINGS
from services.admin.litellm_import.windows import BUDGET_WINDOWS
from shared.db import import_spend, imports
from shared.db.audit import Action, AuditEntry, append
from shared.db.litellm_source import Source
from shared.db.models import load_stored
from shared.db.rows import Connection
from shared.limits.windows import parse_reset_time, zone
from shared.routing.whole import WholeReport, Wholes

# What others link to comes first; before all else what says how budgets run.
KINDS = (
    SETTINGS,
    PERMISSIONS,
    BUDGETS,
    ORGANIZATIONS,
    USERS,
    ORGANIZATION_MEMBERS,
    TEAMS,
    TEAM_MEMBERS,
    MEMBER_SPEND,
    PROJECTS,
    ACCESS_GROUPS,
    MODEL_ACCESS_GROUPS,
    TAGS,
    END_USERS,
    CREDENTIALS,
    MODELS,
    DELETED_TEAMS,
    DELETED_KEYS,
    KEYS,
    DEPRECATED_KEYS,
    BUDGET_WINDOWS,
)
NOT_TAKEN: Mapping[str, str] = MappingProxyType(
    {
        "InvitationLink": "invitations lead to the other gateway's address: invite again",
        "SpendLogs": "single calls stay there; totals and daily figures are taken over",
        "AuditLog": "the audit log is one chain of what was done here",
        "JWTKeyMapping": "keys by JWT claim are not part of this release",
        "AgentsTable": "agents are not part of this release",
        "DailyAgentSpend": "agents are not part of this release",
        "MCPServerTable": "MCP servers are not part of this release",
        "GuardrailsTable": "guardrails are not part of this release",
        "PolicyTable": "policies are not part of this release",
        "PromptTable": "prompts are not part of this release",
        "ManagedVectorStoresTable": "vector stores are not part of this release",
        "SearchToolsTable": "search tools are not part of this release",
        "SSOConfig": "single sign-on is set in the configuration file",
        "CacheConfig": "the cache is set in the configuration file",
        "ConfigOverrides": "secret managers are set in the configuration file",
    }
)
_GONE_SHOWN = 20
_TABLES_NEEDED = ("VerificationToken", "UserTable", "TeamTable")


class NotASource(Exception):
    """A database that has none of the tables."""


@define
class Import:
    """One import. `progress` is told what is being done."""

    source: Source
    target: Connection
    at: Circumstances
    report: Report
    progress: Callable[[str], None]
    _left_spend: dict[str, Decimal] = field(factory=dict)

    async def run(self) -> None:
        """All of it, but for the end of the transaction. Raises `NotASource`."""
        if not any(self.source.has(table) for table in _TABLES_NEEDED):
            raise NotASource
        await import_spend.prepare_stages(self.target)
        for kind in KINDS:
            await self._take(kind)
            if kind is SETTINGS:
                self.at = await self._with_settings()
        figures = await daily.stage_all(self.source, self.target, self.report)
        for table, why in NOT_TAKEN.items():
            count = await self.source.count(table)
            if count:
                self.report.leave(f"LiteLLM_{table}", why, count=count)
        self.progress("counters and daily figures")
        done = await import_spend.apply_stages(self.target)
        self.report.windows, self.report.daily = done
        await self._compare_spend()
        figures.compare(await import_spend.daily_totals(self.target), self.report)
        if self.report.writes:
            await self._audit()

    async def _with_settings(self) -> Circumstances:
        """What holds with the settings that are stored here now."""
        wholes = Wholes(self.at.gateway, lambda *_: None, self.at.sealer)
        config = wholes.make(await load_stored(self.target), WholeReport()).config
        return evolve(
            self.at,
            timezone=zone(config.litellm.timezone),
            reset_time=parse_reset_time(config.litellm.budget_reset_time),
        )

    async def _take(self, kind: Kind) -> None:
        missing = self.source.missing(kind.source)
        table = kind.source.full_name
        if kind.split is not None:
            pass  # the same table as another kind's
        elif not self.source.has(kind.source.name):
            self.report.remarks.append(f"{table}: there is no such table; taken for empty")
        elif missing:
            listed = ", ".join(missing)
            self.report.remarks.append(f"{table}: has no {listed}; taken for unset")
        source, left_out = 0, 0
        async for rows in self.source.batches(kind.source):
            batch = Batch(kind, self.at, self.target, self.report)
            batch.read(rows)
            await batch.write()
            source += batch.source
            left_out += batch.left_out
            spend = self._left_spend.get(kind.amounts or "", Decimal(0))
            self._left_spend[kind.amounts or ""] = spend + batch.left_spend
            self.progress(f"{kind.name}: {source}")
        if kind.target is None:
            return
        await imports.weigh(self.target)
        if kind.group is not None:
            await self._end_members(kind)
        else:
            await self._tell_gone(kind)
        here, gone_here = await kind.target.count_taken(self.target, kind.kind)
        if gone_here:
            self.report.leave(kind.name, "deleted here since an earlier import", count=gone_here)
        self.report.count(kind.name, source, left_out + gone_here, here)

    async def _end_members(self, kind: Kind) -> None:
        """Members of groups that are in the source still, without them."""
        assert kind.target is not None
        assert kind.group is not None
        ids = await imports.gone_members(self.target, kind.kind, kind.group)
        if ids:
            self.report.removed += await kind.target.delete(self.target, ids)
            await imports.forget(self.target, kind.kind, ids)

    async def _tell_gone(self, kind: Kind) -> None:
        """What an earlier import took over and the source has no longer. Keys that it deleted go
        here too; all else may be an emptied table, and stays."""
        assert kind.target is not None
        if kind is KEYS:
            ids = await imports.deleted_keys(self.target)
            if ids:
                self.report.removed += await kind.target.delete(self.target, ids)
                await imports.forget(self.target, kind.kind, ids)
        names, count = await imports.gone(self.target, kind.kind, _GONE_SHOWN)
        if count:
            listed = ", ".join(names) + (", …" if count > len(names) else "")
            self.report.remarks.append(
                f"{kind.name}: {count} are in the source no longer and stay here: {listed}"
            )

    async def _compare_spend(self) -> None:
        totals = await import_spend.spend_totals(self.target)
        for kind in KINDS:
            if kind.amounts is None:
                continue
            name = "team members" if kind is MEMBER_SPEND else kind.name
            source = await self.source.total(kind.source.name, "spend", "total_spend")
            total = totals.get(kind.amounts)
            here = Decimal(0) if total is None else total.imported
            left_out = self._left_spend.get(kind.amounts, Decimal(0))
            self.report.total(f"spend of {name}", source, left_out, here)
            if total is not None and total.here != total.counted:
                more = total.here - total.counted
                self.report.remarks.append(
                    f"spend of {name}: the counters say {decimal(total.here)}, "
                    f"{decimal(more)} of it by what was done here"
                )

    async def _audit(self) -> None:
        report = self.report
        entry = AuditEntry(
            changed_by="meridian import litellm",
            changed_by_api_key=None,
            source_ip=None,
            route="meridian import litellm",
            action=Action.UPDATED,
            table="import_litellm",
            object_id="litellm",
            before=None,
            after={
                "added": report.added,
                "updated": report.updated,
                "removed": report.removed,
                "amounts": report.windows,
                "daily_figures": report.daily,
            },
        )
        await append(self.target, entry)
