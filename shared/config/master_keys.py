"""Which master key holds, and the one that local mode makes for itself."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from shared.config.secret import Secret
from shared.domain.errors import ConfigError

if TYPE_CHECKING:
    from shared.config.gateway_config import GeneralSettings
    from shared.config.settings import Settings

KEY_FILE = "master_key"

# Values out of manuals, examples and tutorials: everybody knows them.
_PUBLIC_KEYS = frozenset(
    {
        "sk-1234",
        "sk-12345",
        "sk-123456",
        "sk-12345678",
        "sk-1234567890",
        "sk-1234567890abcdef",
        "sk-0000",
        "sk-admin",
        "sk-changeme",
        "sk-change-me",
        "sk-default",
        "sk-demo",
        "sk-dev",
        "sk-example",
        "sk-key",
        "sk-litellm",
        "sk-litellm-master-key",
        "sk-local",
        "sk-master",
        "sk-master-key",
        "sk-my-master-key",
        "sk-my_special_key",
        "sk-password",
        "sk-proxy",
        "sk-secret",
        "sk-test",
        "sk-xxx",
        "sk-xxxx",
        "sk-xxxxxxxx",
        "sk-your-key",
        "sk-your-key-here",
        "sk-your-master-key",
        "admin",
        "changeme",
        "change-me",
        "litellm",
        "litellm-master-key",
        "master-key",
        "my-master-key",
        "password",
        "secret",
        "test",
        "your-key",
        "your-key-here",
        "your-master-key",
        "your-secret-key",
        "your_master_key",
    }
)


@frozen
class MasterKey:
    """The key in force. `key` is `None` only where an unset one was permitted: then every caller
    is let in. `file` is where a generated key is kept; `created` whether that was just now."""

    key: Secret | None
    file: Path | None = None
    created: bool = False


def is_weak(key: Secret | None) -> bool:
    """Whether a key is absent, empty or publicly known."""
    if not key:
        return True
    plain = key.reveal().strip().lower()
    return plain in _PUBLIC_KEYS or plain.strip("<>[]{}") in _PUBLIC_KEYS


def resolve_master_key(settings: Settings, general: GeneralSettings | None = None) -> MasterKey:
    """The master key, made and kept where local mode has none.

    `general_settings.master_key` wins over `LITELLM_MASTER_KEY`. Outside local mode a weak key
    raises `ConfigError`, unless permitted by name. Several processes may call this at once; all
    get the same key.
    """
    given = general.master_key if general and general.master_key else settings.master_key
    permitted = settings.permit_weak_master_key or bool(
        general and general.dangerously_permit_weak_or_unset_master_key
    )
    if settings.local_mode:
        return MasterKey(given) if given else _kept(settings.state_dir)
    if is_weak(given) and not permitted:
        what = "is a publicly known sample value" if given else "is not set"
        raise ConfigError(
            f"environment: LITELLM_MASTER_KEY: the master key {what}. Set it to a secret of your "
            'own, for example the output of: python3 -c "import secrets; '
            "print('sk-' + secrets.token_urlsafe(32))\". "
            "(LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY=true starts without.)"
        )
    return MasterKey(given or None)


def kept_master_key(state_dir: Path) -> Secret | None:
    """The key that local mode has made in a state directory, `None` where it has made none.

    Raises `ConfigError` for a file that holds none or is not private, and `OSError`.
    """
    try:
        return _read(state_dir / KEY_FILE)
    except FileNotFoundError:
        return None


def _kept(state_dir: Path) -> MasterKey:
    file = state_dir / KEY_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        created = not file.exists() and _create(file)
        return MasterKey(_read(file), file, created)
    except OSError as error:
        raise ConfigError(
            f"{file}: cannot keep the generated master key ({error.strerror}). Set "
            "LITELLM_MASTER_KEY, or MERIDIAN_STATE_DIR to a directory that can be written."
        ) from None


def _create(file: Path) -> bool:
    """Write a new key to the side and link it into place: whoever comes second finds it whole."""
    draft = file.with_name(f".{KEY_FILE}.{secrets.token_hex(8)}")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="ascii") as stream:
            stream.write(f"sk-{secrets.token_urlsafe(32)}\n")
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(draft, file)
            return True
        return False
    finally:
        draft.unlink()


def _read(file: Path) -> Secret:
    handle = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with os.fdopen(handle, encoding="ascii", errors="replace") as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise ConfigError(f"{file}: is not a file of this user's; remove it to get a new key.")
        if status.st_mode & 0o077:
            raise ConfigError(f"{file}: may be read by others; run `chmod 600` on it.")
        key = Secret(stream.read(4096).strip())
    if is_weak(key) or not key.reveal().isascii() or not key.reveal().isprintable():
        raise ConfigError(f"{file}: holds no key; remove it to get a new one.")
    return key
