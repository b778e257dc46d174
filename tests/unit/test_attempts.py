"""Attempts at secrets are bounded per name and window, and so is what is remembered."""

from __future__ import annotations

import pytest

from services.admin.api.attempts import Attempts
from shared.domain.errors import RateLimited


class Clock:
    """Seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


def test_too_many_wait() -> None:
    """After the most that are allowed comes 429 with the rest of the window, then a new one."""
    clock = Clock()
    attempts = Attempts(3, 60.0, clock)
    for _ in range(3):
        attempts.begin("a")
    clock.now_s += 20.5
    with pytest.raises(RateLimited) as caught:
        attempts.begin("a")
    assert caught.value.status == 429
    assert caught.value.headers == (("retry-after", "40"),)
    attempts.begin("b")
    clock.now_s += 39.5
    for _ in range(3):
        attempts.begin("a")
    with pytest.raises(RateLimited):
        attempts.begin("a")


def test_success_is_no_guess() -> None:
    """What succeeds is taken back; failures before it still count."""
    attempts = Attempts(2, 60.0, Clock())
    for _ in range(50):
        attempts.begin("a")
        attempts.succeeded("a")
    attempts.begin("a")
    attempts.begin("a")
    with pytest.raises(RateLimited):
        attempts.begin("a")
    attempts.succeeded("nobody")


def test_memory_is_bounded() -> None:
    """Any number of names is held in the room of 10 000; the oldest go first."""
    attempts = Attempts(1, 60.0, Clock())
    attempts.begin("first")
    for number in range(9_999):
        attempts.begin(f"n{number}")
    with pytest.raises(RateLimited):
        attempts.begin("first")
    attempts.begin("one more")
    attempts.begin("first")
