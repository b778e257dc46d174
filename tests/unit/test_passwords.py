"""Stored passwords: what they reveal, what they cost, and how they age."""

from __future__ import annotations

import pytest

from shared.keys.passwords import COST, Cost, hash_password, outdated, verify_password

CHEAP = Cost(n=16, r=1, p=1)


def test_round_trip() -> None:
    """The right password verifies, others do not; the form says how it was made."""
    stored = hash_password("correct horse")
    assert stored.startswith("scrypt$16384$8$1$")
    assert "horse" not in stored
    assert verify_password("correct horse", stored)
    for wrong in ("correct horsE", "", "correct horse ", "correct\x00horse"):
        assert not verify_password(wrong, stored)


def test_strong_enough() -> None:
    """The parameters take 16 MiB and as many steps."""
    assert (COST.n, COST.r, COST.p) == (2**14, 8, 1)
    assert COST.memory >= 16 * 1024 * 1024


def test_salts_differ() -> None:
    """Two users with one password do not share a hash."""
    assert hash_password("same-password", CHEAP) != hash_password("same-password", CHEAP)


@pytest.mark.parametrize("password", ["пароль-鍵-🔑", "a" * 1024, "\ud800lone", "nul\x00inside"])
def test_any_text(password: str) -> None:
    """Any text can be a password."""
    stored = hash_password(password, CHEAP)
    assert verify_password(password, stored)
    assert not verify_password(password + "x", stored)


def test_older_parameters_stay_readable() -> None:
    """A form with other parameters verifies and counts as outdated."""
    stored = hash_password("long ago", CHEAP)
    assert verify_password("long ago", stored)
    assert outdated(stored)
    assert not outdated(stored, CHEAP)
    assert not outdated(hash_password("today"))


@pytest.mark.parametrize(
    "stored",
    [
        "",
        "plain",
        "scrypt$16$1$1$AAAA",
        "bcrypt$16$1$1$AAAA$AAAA",
        "scrypt$x$1$1$AAAA$AAAA",
        "scrypt$16$1$1$A*A$AAAA",
        "scrypt$16$1$1$AAAA$AAAA",
        "scrypt$15$1$1$AAAA$" + "A" * 43 + "=",
        "scrypt$0$1$1$AAAA$" + "A" * 43 + "=",
        "scrypt$16$0$1$AAAA$" + "A" * 43 + "=",
        "scrypt$16$1$99$AAAA$" + "A" * 43 + "=",
        "scrypt$1073741824$8$1$AAAA$" + "A" * 43 + "=",
    ],
)
def test_forms_that_are_none(stored: str) -> None:
    """A stored form that is broken, or would cost too much, verifies nothing and raises nothing."""
    assert not verify_password("", stored)
    assert outdated(stored)
