"""How far an import is: a bar on a terminal, else a line now and then."""

from __future__ import annotations

import shutil
import sys
import time

from attrs import define

from services.cli.output import note

_BAR = 24
_PAUSE_S = 0.1
_LINES = 10
# Of fewer no line on the way is worth reading.
_FEW = 100


@define
class Progress:
    """Writes to standard error."""

    total: int
    terminal: bool
    done: int = 0
    _drawn_at: float = 0.0
    _visible: bool = False

    @classmethod
    def of(cls, total: int) -> Progress:
        """A progress shown as standard error allows."""
        return cls(total, sys.stderr.isatty())

    def step(self) -> None:
        """One more is done."""
        self.done += 1
        if self.terminal:
            self._draw()
        elif _FEW <= self.total > self.done and self.done % (self.total // _LINES) == 0:
            note(f"{self.done} of {self.total}")

    def clear(self) -> None:
        """Takes the bar away, so that a line can be written; the next step brings it back."""
        if self._visible:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._visible = False

    def _draw(self) -> None:
        now = time.monotonic()
        if now - self._drawn_at < _PAUSE_S:
            return
        full = _BAR * self.done // max(1, self.total)
        text = f"[{'#' * full}{'.' * (_BAR - full)}] {self.done} of {self.total}"
        sys.stderr.write(f"\r{text[: shutil.get_terminal_size().columns - 1]}\x1b[K")
        sys.stderr.flush()
        self._drawn_at = now
        self._visible = True
