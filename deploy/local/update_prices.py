"""Refresh `shared/providers/prices/prices.json` from the `genai-prices` package (MIT).

A development command: nothing of it runs in the product. It makes a temporary virtual
environment, installs the pinned release of the source there, and lets `convert_prices.py` write
our own schema from its figures. With the same release and the same `--day` the output is the
same, byte for byte.
"""

from __future__ import annotations

import argparse
import datetime
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

PACKAGE = "genai-prices"
VERSION = "0.2.3"

_HERE = Path(__file__).resolve().parent
_OUTPUT = _HERE.parent.parent / "shared" / "providers" / "prices" / "prices.json"


def main() -> int:
    """Make the environment, convert, say what came out."""
    options = _options()
    with tempfile.TemporaryDirectory(prefix="meridian-prices-") as folder:
        python = _environment(Path(folder), options.version)
        convert = [python, _HERE / "convert_prices.py", "--day", options.day, "--to", options.to]
        subprocess.run([str(part) for part in convert], check=True)
    return 0


def _environment(folder: Path, version: str) -> Path:
    """A virtual environment that has only the source package; its interpreter."""
    venv.EnvBuilder(with_pip=True).create(folder)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([str(python), *install, f"{PACKAGE}=={version}"], check=True)
    return python


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--version", default=VERSION, help=f"release of {PACKAGE}")
    parser.add_argument(
        "--day",
        default=datetime.datetime.now(datetime.UTC).date().isoformat(),
        help="the day whose prices are taken; later ones are kept with their date",
    )
    parser.add_argument("--to", type=Path, default=_OUTPUT, help="the file to write")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
