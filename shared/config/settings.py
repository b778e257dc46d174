"""Process settings: read once from the environment, frozen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from attrs import field, frozen

from shared.config.client_variables import KEY_VARIABLES, URL_VARIABLES
from shared.config.master_keys import is_weak
from shared.config.reports import ENVIRONMENT, Notice, Report, did_you_mean, nearest
from shared.config.secret import Secret
from shared.config.variables import FLAGS_FIELD, VARIABLES, Variable
from shared.config.variables_pending import PENDING_VARIABLES
from shared.domain.capabilities import Binary

EXAMPLE_CONFIG = Path(__file__).with_name("example.yaml")
"""The configuration used when none is named; part of the package."""

_DEFAULT_PORTS: Mapping[Binary, int] = {Binary.WORKER: 4000, Binary.ADMIN: 4001}
_OWN_PREFIX = "MERIDIAN_"
_NO_ORIGINS: Mapping[str, tuple[str, str]] = MappingProxyType({})
# What Kubernetes puts into pods for a service whose name begins like ours.
_SERVICE_LINK = re.compile(r".*_SERVICE_(HOST|PORT)(_.*)?\Z|.*_PORT(_[0-9]+_(TCP|UDP).*)?\Z")
_OF_THE_COMMAND = frozenset({*URL_VARIABLES, *KEY_VARIABLES})
# A mistyped one of these would leave open what was meant to be closed.
_FLAG_NAMES = tuple(v.name for v in VARIABLES if v.field == FLAGS_FIELD)


@frozen(kw_only=True)
class Settings:
    """What the environment says. Durations are seconds, sizes MiB; see `variables.py`."""

    binary: Binary
    listen_host: str | None
    port: int
    root_path: str
    config_file: Path | None
    flags: Mapping[str, bool]
    """By variable name, for `capabilities.decide`."""
    region: str
    env: str
    environment_name: str | None
    database_url: Secret | None
    database_url_direct: Secret | None
    database_url_read_replica: Secret | None
    master_key: Secret | None
    salt_key: Secret | None
    permit_weak_master_key: bool
    public_api_docs: bool
    store_model_in_db: bool
    state_dir: Path
    postgres_bin: Path | None
    disable_key_name: bool
    key_bytes: int
    minimum_custom_key_length: int
    jwt_public_key_url: tuple[str, ...] | None
    jwt_audience: str | None
    jwt_issuer: str | None
    key_rotation_enabled: bool
    key_rotation_every_s: int
    key_rotation_grace: str
    expired_keys_keep_days: int | None
    audit_keep_days: int | None
    rate_window_s: int
    limit_mode: str
    stale_limit_s: float
    outage_limits: str
    outage_budget: str
    drain_delay_s: float
    drain_timeout_s: float
    event_loop: str
    client_timeout_s: float
    max_request_size_mb: float
    flush_interval_s: float
    journal_max_mb: int
    log_level: str
    log_format: str
    json_logs: bool
    prices_file: Path | None
    upstream_max_connections: int
    upstream_max_idle: int
    upstream_max_waiting: int
    upstream_keepalive_s: float
    ssl_cert_file: Path | None
    ssl_verify: bool | Path
    notices: tuple[Notice, ...] = field(default=(), eq=False)

    @classmethod
    def from_environ(
        cls,
        environ: Mapping[str, str],
        binary: Binary,
        origins: Mapping[str, tuple[str, str]] = _NO_ORIGINS,
    ) -> Settings:
        """Read and check every variable; one `ConfigError` names all that are wrong.

        An empty variable counts as not set. `origins` names the file and dotted path of those
        that a file has set, for messages.
        """
        report = Report()
        values: dict[str, Any] = {"binary": binary, FLAGS_FIELD: {}}
        for variable in VARIABLES:
            value = _read(variable, environ, origins, report)
            if variable.field == FLAGS_FIELD:
                values[FLAGS_FIELD][variable.name] = value
            else:
                values[variable.field] = value
        _fill(values, environ, binary)
        _check(values, report)
        _look_for_strangers(environ, report)
        report.raise_problems()
        values[FLAGS_FIELD] = MappingProxyType(values[FLAGS_FIELD])
        return cls(**values, notices=tuple(report.notices))

    @property
    def local_mode(self) -> bool:
        """Whether there is no database of the operator's: a Postgres of our own is used."""
        return self.database_url is None

    @property
    def host(self) -> str:
        """Where to listen. Without a proper master key nobody outside this machine is let in by
        default."""
        if self.listen_host is not None:
            return self.listen_host
        return "127.0.0.1" if self.local_mode and is_weak(self.master_key) else "0.0.0.0"  # noqa: S104 - the reference's default

    @property
    def config_path(self) -> Path:
        """The configuration file to read."""
        return self.config_file or EXAMPLE_CONFIG

    @property
    def direct_dsn(self) -> Secret | None:
        """The DSN for LISTEN and migrations."""
        return self.database_url_direct or self.database_url

    @property
    def max_request_bytes(self) -> int:
        """The largest request body."""
        return int(self.max_request_size_mb * 1024 * 1024)

    @property
    def log_as(self) -> str:
        """`json`, `console` or `auto`."""
        return "json" if self.log_format == "auto" and self.json_logs else self.log_format

    @property
    def verify_upstream(self) -> bool:
        """Whether upstream certificates are verified."""
        return self.ssl_verify is not False

    @property
    def ca_file(self) -> Path | None:
        """Authorities to trust upstream; `None` means those of the machine."""
        return self.ssl_verify if isinstance(self.ssl_verify, Path) else self.ssl_cert_file


def _read(
    variable: Variable,
    environ: Mapping[str, str],
    origins: Mapping[str, tuple[str, str]],
    report: Report,
) -> Any:
    raw = environ.get(variable.name, "")
    if not raw:
        return variable.default
    source, name = origins.get(variable.name, (ENVIRONMENT, variable.name))
    try:
        value = variable.kind.parse(raw)
    except ValueError as error:
        report.problem(source, name, f"expected {error}")
        return variable.default
    if variable.pending and value != variable.default:
        report.notice(source, name, f"not in force in this release: {variable.pending}")
    return value


def _fill(values: dict[str, Any], environ: Mapping[str, str], binary: Binary) -> None:
    local = values["database_url"] is None
    if values["port"] is None:
        values["port"] = _DEFAULT_PORTS[binary]
    if values["env"] is None:
        values["env"] = "local" if local else "production"
    if values["drain_delay_s"] is None:
        values["drain_delay_s"] = 0.0 if local else 5.0
    if values["state_dir"] is None:
        base = Path(environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser()
        values["state_dir"] = base / "meridian"


def _check(values: Mapping[str, Any], report: Report) -> None:
    if values["env"] == "production" and values["database_url"] is None:
        report.problem(
            ENVIRONMENT,
            "DATABASE_URL",
            "must be set where MERIDIAN_ENV is `production`: a `postgresql://…` URL",
        )
    if values["database_url"] is None and values["database_url_direct"] is not None:
        report.problem(
            ENVIRONMENT,
            "MERIDIAN_DATABASE_URL_DIRECT",
            "is the way round a pooler in DATABASE_URL, which must be set too",
        )
    for name in ("prices_file", "ssl_cert_file", "ssl_verify"):
        path = values[name]
        if isinstance(path, Path) and not path.is_file():
            variable = next(v for v in VARIABLES if v.field == name)
            report.problem(ENVIRONMENT, variable.name, f"no such file: {path}")


def _look_for_strangers(environ: Mapping[str, str], report: Report) -> None:
    known = {variable.name for variable in VARIABLES}
    pending = {row.name: row for row in PENDING_VARIABLES}
    # Short, common words would find a likeness in other programs' variables.
    distinctive = [name for name in known | set(pending) if "_" in name]
    for name, value in environ.items():
        if name in known or name in _OF_THE_COMMAND or not value:
            continue
        if name in pending:
            row = pending[name]
            if value.strip().lower() not in row.harmless:
                report.notice(ENVIRONMENT, name, f"not in force: {row.text}", weakens=row.weakens)
        elif flag := nearest(name, _FLAG_NAMES, cutoff=0.9):
            report.problem(ENVIRONMENT, name, f"no such flag; did you mean `{flag}`?")
        elif name.startswith(_OWN_PREFIX):
            if not _SERVICE_LINK.match(name):
                hint = did_you_mean(name, [own for own in known if own.startswith(_OWN_PREFIX)])
                report.notice(ENVIRONMENT, name, f"no such setting{hint}")
        elif similar := nearest(name, distinctive, cutoff=0.93):
            report.notice(ENVIRONMENT, name, f"not read by the gateway; did you mean `{similar}`?")
