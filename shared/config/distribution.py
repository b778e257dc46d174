"""Whether `shared` and `services` are both ours.

The import names are common words: a folder `shared` in the current directory can win over the
installed package. Programs check once at their start and refuse to run from a mixture.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from shared.domain.errors import ConfigError

DISTRIBUTION = "meridian-gateway"
PACKAGES = ("shared", "services")

_ADVICE = (
    "start with the commands meridian-worker, meridian-admin and meridian, or with "
    "`python -P -m`, from a folder that has no `shared` or `services` of its own"
)


def check_distribution() -> Path:
    """The folder that both packages come from; `ConfigError` when it is not one and the same."""
    return common_folder({name: _origin(name) for name in PACKAGES})


def common_folder(origins: Mapping[str, Path | None]) -> Path:
    """The one folder that holds all packages, from the place of each one's `__init__.py`."""
    for name, origin in origins.items():
        if origin is None:
            raise ConfigError(
                f"the package `{name}` that Python finds is a bare folder, not ours: {_ADVICE}"
            )
    folders = {name: origin.resolve().parents[1] for name, origin in origins.items() if origin}
    if len(set(folders.values())) != 1:
        places = ", ".join(f"`{name}` from {folder}" for name, folder in folders.items())
        raise ConfigError(f"the packages are not of one installation ({places}): {_ADVICE}")
    return next(iter(folders.values()))


def version() -> str:
    """The installed version, `unknown` when the packages run without being installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return "unknown"


def _origin(name: str) -> Path | None:
    spec = importlib.util.find_spec(name)
    return Path(spec.origin) if spec is not None and spec.origin else None
