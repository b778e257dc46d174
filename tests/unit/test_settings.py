"""Process settings: every variable, its default, its refusals; the master key."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from shared.config.gateway_config import GeneralSettings
from shared.config.kinds import POSTGRES, SECRET
from shared.config.master_keys import resolve_master_key
from shared.config.secret import Secret
from shared.config.settings import Settings
from shared.config.startup import FILE_SETTINGS, read_configuration
from shared.config.variables import FLAGS_FIELD, VARIABLES
from shared.domain.capabilities import Binary, decide
from shared.domain.errors import ConfigError

DATABASE = {"DATABASE_URL": "postgresql://u:hidden-pw@db/main"}
ROOT = Path(__file__).parents[2]


def read(**environ: str) -> Settings:
    return Settings.from_environ(environ, Binary.WORKER)


def problems(**environ: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(**environ)
    return str(caught.value)


def test_every_field_has_its_variables():
    """The table of variables and the fields of `Settings` are the same set, names unique."""
    fields = {field.name for field in attrs.fields(Settings)} - {"binary", "notices"}
    assert {variable.field for variable in VARIABLES} == fields
    names = [variable.name for variable in VARIABLES]
    assert len(names) == len(set(names))
    own = [v.field for v in VARIABLES if v.field != FLAGS_FIELD]
    assert len(own) == len(set(own))


def test_secrets_are_secrets():
    """Variables whose name speaks of a key or a URL of the database hold `Secret` values."""
    for variable in VARIABLES:
        if "DATABASE_URL" in variable.name:
            assert variable.kind is POSTGRES
        elif variable.name.endswith(("MASTER_KEY", "SALT_KEY")) and "PERMIT" not in variable.name:
            assert variable.kind is SECRET


def test_defaults_of_local_mode():
    """With nothing set: local mode, this machine only, the reference's port, no delay."""
    settings = read()
    assert settings.local_mode
    assert (settings.host, settings.port) == ("127.0.0.1", 4000)
    assert (settings.env, settings.region, settings.event_loop) == ("local", "default", "uvloop")
    assert (settings.rate_window_s, settings.stale_limit_s) == (60, 900.0)
    assert (settings.outage_limits, settings.limit_mode) == ("share", "default")
    assert settings.outage_budget == "serve_until_lease_end"
    assert settings.drain_delay_s == 0
    assert settings.config_path.is_file()
    assert settings.max_request_bytes == 100 * 1024 * 1024
    assert not any(settings.flags.values())
    assert settings.notices == ()


def test_defaults_beside_a_database():
    """With a database: every address, a drain delay, production; the direct DSN is the same."""
    settings = Settings.from_environ(DATABASE, Binary.ADMIN)
    assert not settings.local_mode
    assert (settings.host, settings.port) == ("0.0.0.0", 4001)
    assert settings.env == "production"
    assert settings.drain_delay_s == 5
    assert settings.direct_dsn == settings.database_url


@pytest.mark.parametrize(
    ("environ", "host"),
    [
        ({}, "127.0.0.1"),
        ({"LITELLM_MASTER_KEY": "sk-1234"}, "127.0.0.1"),
        ({"LITELLM_MASTER_KEY": "sk-a-key-of-my-own"}, "0.0.0.0"),
        ({"HOST": "0.0.0.0"}, "0.0.0.0"),
        ({**DATABASE, "LITELLM_MASTER_KEY": "sk-1234"}, "0.0.0.0"),
    ],
)
def test_who_is_let_in_by_default(environ, host):
    """Local mode listens to others only with a proper key or when told to."""
    assert read(**environ).host == host


def test_state_directory_follows_xdg():
    """The state directory lies in XDG_STATE_HOME, unless named."""
    assert read(XDG_STATE_HOME="/x").state_dir == Path("/x/meridian")
    assert read(MERIDIAN_STATE_DIR="/y", XDG_STATE_HOME="/x").state_dir == Path("/y")
    assert read().state_dir == Path("~/.local/state/meridian").expanduser()


@pytest.mark.parametrize("text", ["true", "TRUE", "1", "yes", "on", " True "])
def test_flags_are_true(text):
    """Every usual word for true takes the capability away."""
    settings = read(DISABLE_LLM_ENDPOINTS=text)
    assert not decide(Binary.WORKER, settings.flags).llm


@pytest.mark.parametrize("text", ["false", "False", "0", "no", "off", ""])
def test_flags_are_false(text):
    """Every usual word for false, and an empty variable, leaves it."""
    assert decide(Binary.ADMIN, read(DISABLE_ADMIN_ENDPOINTS=text).flags).management


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("DISABLE_ADMIN_UI", "maybe"),
        ("PORT", "4000x"),
        ("PORT", "65536"),
        ("HOST", "a b"),
        ("DATABASE_URL", "mysql://u:hidden-pw@h/d"),
        ("LITELLM_MASTER_KEY", "hidden-pw\n"),
        ("LITELLM_RATE_LIMIT_WINDOW_SIZE", "0"),
        ("LITELLM_RATE_LIMIT_WINDOW_SIZE", "1.5"),
        ("MERIDIAN_STALE_LIMIT_S", "nan"),
        ("MERIDIAN_OUTAGE_LIMITS", "sometimes"),
        ("MERIDIAN_EVENT_LOOP", "trio"),
        ("LITELLM_LOG", "LOUD"),
        ("SERVER_ROOT_PATH", "gateway"),
        ("SSL_VERIFY", "relative.pem"),
        ("SSL_CERT_FILE", "/no/such/file"),
        ("MERIDIAN_PRICES_FILE", "/no/such/file"),
        ("LENGTH_OF_LITELLM_GENERATED_KEY", "8"),
        ("MERIDIAN_MAX_REQUEST_SIZE_MB", "0"),
        ("MERIDIAN_REGION", "eu\x00"),
    ],
)
def test_bad_values_name_the_variable(name, text):
    """A bad value refuses to start with the variable's name and without a secret's text."""
    message = problems(**{name: text})
    assert name in message
    assert "hidden-pw" not in message


def test_all_problems_at_once():
    """One error lists every bad variable."""
    message = problems(PORT="x", MERIDIAN_EVENT_LOOP="y", DISABLE_ADMIN_UI="z")
    assert message.startswith("3 problems")
    assert all(name in message for name in ("PORT", "MERIDIAN_EVENT_LOOP", "DISABLE_ADMIN_UI"))


def test_production_wants_a_database():
    """MERIDIAN_ENV=production without a database says what to set."""
    assert "DATABASE_URL" in problems(MERIDIAN_ENV="production")
    assert "DATABASE_URL" in problems(MERIDIAN_DATABASE_URL_DIRECT="postgresql://h/d")


def test_repr_holds_no_secret():
    """Printing all settings shows no secret."""
    settings = read(**DATABASE, LITELLM_MASTER_KEY="sk-private-1", LITELLM_SALT_KEY="private-2")
    assert not {"hidden-pw", "private"} & set(repr(settings).replace("'", " ").split())
    assert "private" not in repr(settings)
    assert "hidden-pw" not in repr(settings)


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("MERIDIAN_REGIN", "MERIDIAN_REGION"),
        ("LITELLM_MASTERKEY", "LITELLM_MASTER_KEY"),
        ("MERIDIAN_STALE_LIMIT", "MERIDIAN_STALE_LIMIT_S"),
    ],
)
def test_likely_typing_errors_are_noticed(name, suggestion):
    """A name much like a setting's is noticed with the name that was probably meant."""
    (notice,) = read(**{name: "x"}).notices
    assert notice.path == name
    assert suggestion in notice.text


@pytest.mark.parametrize("name", ["DISABLE_ADMIN_ENDPOINT", "DISABLE_ADMIN_UIS"])
def test_a_mistyped_flag_refuses(name):
    """What nearly is a flag refuses to start: it would leave open what it was to close."""
    assert name[:-1] in problems(**{name: "true"})


def test_other_programs_variables_are_left_alone():
    """Ordinary variables, and those that Kubernetes makes for a service, are not noticed."""
    environ = {
        "PATH": "/bin",
        "HOME": "/root",
        "PGHOST": "db",
        "MERIDIAN_WORKER_SERVICE_HOST": "10.0.0.1",
        "MERIDIAN_WORKER_SERVICE_PORT_HTTP": "4000",
        "MERIDIAN_WORKER_PORT": "tcp://10.0.0.1:4000",
        "MERIDIAN_WORKER_PORT_4000_TCP_ADDR": "10.0.0.1",
    }
    assert read(**environ).notices == ()


def test_known_but_not_in_force():
    """A variable of the reference that does nothing here is noticed; its harmless value is not."""
    (notice,) = read(REDIS_URL="redis://:hidden-pw@r").notices
    assert notice.path == "REDIS_URL"
    assert "hidden-pw" not in str(notice)
    assert read(NUM_WORKERS="1", LITELLM_STORE_AUDIT_LOGS="true").notices == ()
    assert read(LITELLM_STORE_AUDIT_LOGS="false").notices[0].path == "LITELLM_STORE_AUDIT_LOGS"


def test_declared_but_not_in_force():
    """A declared setting that nothing acts on yet is noticed when it is set."""
    (notice,) = read(DATABASE_URL_READ_REPLICA="postgresql://h/d").notices
    assert notice.path == "DATABASE_URL_READ_REPLICA"
    assert read(STORE_MODEL_IN_DB="true").notices == ()


def test_log_format_and_certificates(tmp_path):
    """JSON_LOGS yields to the explicit format; a path in SSL_VERIFY is the file to trust."""
    assert read(JSON_LOGS="true").log_as == "json"
    assert read(JSON_LOGS="true", MERIDIAN_LOG_FORMAT="console").log_as == "console"
    authorities = tmp_path / "ca.pem"
    authorities.touch()
    assert read(SSL_VERIFY=str(authorities)).ca_file == authorities
    assert read(SSL_VERIFY=str(authorities)).verify_upstream
    assert not read(SSL_VERIFY="false").verify_upstream
    assert read(SSL_CERT_FILE=str(authorities)).ca_file == authorities


# -- the master key


def test_generated_once_and_kept_private(tmp_path):
    """Local mode makes a key of 32 random bytes, mode 0600, and finds it the next time."""
    settings = read(MERIDIAN_STATE_DIR=str(tmp_path / "state"))
    first = resolve_master_key(settings)
    again = resolve_master_key(settings)
    assert first.key == again.key
    assert (first.created, again.created) == (True, False)
    assert first.file == tmp_path / "state" / "master_key"
    assert stat.S_IMODE(first.file.stat().st_mode) == 0o600
    assert stat.S_IMODE(first.file.parent.stat().st_mode) == 0o700
    assert len(first.key.reveal()) == 3 + 43
    assert first.key.reveal() not in repr(first)
    assert list(first.file.parent.iterdir()) == [first.file]


def test_two_processes_at_once_share_one_key(tmp_path):
    """Processes that start together end up with the same key."""
    code = (
        "import sys; from shared.config.settings import Settings;"
        "from shared.config.master_keys import resolve_master_key;"
        "from shared.domain.capabilities import Binary;"
        "s = Settings.from_environ({'MERIDIAN_STATE_DIR': sys.argv[1]}, Binary.WORKER);"
        "sys.stdin.read(1); k = resolve_master_key(s); print(k.key.reveal(), k.created)"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-P", "-c", code, str(tmp_path / "state")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        for _ in range(4)
    ]
    for process in started:
        process.stdin.write("g")
        process.stdin.flush()
    answers = [process.communicate(timeout=30)[0].split() for process in started]
    assert len({key for key, _ in answers}) == 1
    assert [created for _, created in answers].count("True") == 1


@pytest.mark.parametrize("spoil", ["mode", "empty", "link", "directory", "garbage"])
def test_a_spoilt_key_file_refuses(tmp_path, spoil):
    """A key file that others can read, or that is no plain file with a key, is not used."""
    settings = read(MERIDIAN_STATE_DIR=str(tmp_path))
    file = tmp_path / "master_key"
    if spoil == "directory":
        file.mkdir()
    elif spoil == "link":
        (tmp_path / "real").write_text("sk-real-key-of-somebody")
        (tmp_path / "real").chmod(0o600)
        file.symlink_to(tmp_path / "real")
    else:
        content = {"mode": b"sk-real-key", "empty": b"", "garbage": b"sk-\xff\xfe"}[spoil]
        file.write_bytes(content)
        file.chmod(0o644 if spoil == "mode" else 0o600)
    with pytest.raises(ConfigError, match="master_key"):
        resolve_master_key(settings)


def test_a_given_key_wins_over_a_generated_one(tmp_path):
    """With a key set, local mode makes none."""
    settings = read(MERIDIAN_STATE_DIR=str(tmp_path), LITELLM_MASTER_KEY="sk-mine-alone")
    assert resolve_master_key(settings).key == Secret("sk-mine-alone")
    assert not (tmp_path / "master_key").exists()


@pytest.mark.parametrize("key", ["", "sk-1234", "SK-1234", "your-master-key", "<your-master-key>"])
def test_weak_keys_refuse_outside_local_mode(key):
    """An absent or publicly known key refuses to start and says what to set."""
    settings = read(**DATABASE, LITELLM_MASTER_KEY=key)
    with pytest.raises(ConfigError, match="LITELLM_MASTER_KEY"):
        resolve_master_key(settings)


def test_weak_keys_by_permission():
    """The named permission starts with a weak key, and with none at all."""
    permit = {"LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true"}
    weak = read(**DATABASE, **permit, LITELLM_MASTER_KEY="sk-1234")
    assert resolve_master_key(weak).key == Secret("sk-1234")
    assert resolve_master_key(read(**DATABASE, **permit)).key is None
    general = GeneralSettings(dangerously_permit_weak_or_unset_master_key=True)
    assert resolve_master_key(read(**DATABASE), general).key is None


def test_the_files_key_wins():
    """`general_settings.master_key` wins over the variable."""
    settings = read(**DATABASE, LITELLM_MASTER_KEY="sk-from-environment")
    general = GeneralSettings(master_key=Secret("sk-from-the-file"))
    assert resolve_master_key(settings, general).key == Secret("sk-from-the-file")


# -- environment and file together


def test_the_file_sets_process_settings(tmp_path):
    """`environment_variables` and the settings sections of the file win over the environment."""
    file = tmp_path / "config.yaml"
    file.write_text(
        "environment_variables: {MERIDIAN_REGION: eu-west-1, PORT: 4444}\n"
        "general_settings:\n"
        "  store_model_in_db: true\n"
        "  master_key: sk-from-the-file\n"
        "  database_url: os.environ/MY_DATABASE\n"
        "  max_request_size_mb: 2\n"
        "  proxy_batch_write_at: 5\n"
        "  disable_key_name: true\n"
        "litellm_settings: {json_logs: true, ssl_verify: false}\n"
    )
    environ = {
        "MY_DATABASE": "postgresql://h/d",
        "LITELLM_MASTER_KEY": "sk-other",
        "MERIDIAN_REGION": "us",
    }
    configuration = read_configuration(environ, Binary.WORKER, file)
    settings = configuration.settings
    assert settings.master_key == Secret("sk-from-the-file")
    assert settings.database_url == Secret("postgresql://h/d")
    assert (settings.region, settings.port, settings.env) == ("eu-west-1", 4444, "production")
    assert settings.drain_delay_s == 5
    assert (settings.max_request_size_mb, settings.flush_interval_s) == (2.0, 5.0)
    assert settings.disable_key_name
    assert settings.log_as == "json"
    assert not settings.verify_upstream
    assert settings.config_path == file
    paths = {notice.path for notice in configuration.notices}
    assert paths == {"MERIDIAN_REGION"}


def test_a_files_bad_setting_names_the_file(tmp_path):
    """A process setting that the file gets wrong is reported at its place in the file."""
    file = tmp_path / "config.yaml"
    file.write_text("general_settings: {database_url: 'mysql://u:hidden-pw@h/d'}\n")
    with pytest.raises(ConfigError, match=r"general_settings\.database_url") as caught:
        read_configuration({"CONFIG_FILE_PATH": str(file)}, Binary.WORKER)
    assert str(file) in str(caught.value)
    assert "hidden-pw" not in str(caught.value)


def test_file_settings_name_real_variables():
    """Every name of the file that stands for a variable stands for a declared one."""
    names = {variable.name for variable in VARIABLES}
    assert set(FILE_SETTINGS.values()) <= names
