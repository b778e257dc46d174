"""Secrets at rest: envelopes, which members hold them, and the library behind them."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from shared.config.secret import MASK, Secret
from shared.domain.errors import ConfigError
from shared.secrets.members import credential_values, model_params, paths_of, unmasked
from shared.secrets.sealing import Place, SealBroken, Sealer, is_sealed

ROOT = Path(__file__).parent.parent.parent
PLACE = Place("model", "m1", "litellm_params.api_key")
PLAIN = "sk-provider-secret-\u00e9\U0001f511\ud800"


@pytest.fixture
def sealer() -> Sealer:
    return Sealer(Secret("sk-salt-of-this-test"))


def test_an_envelope_opens_where_it_was_made(sealer: Sealer) -> None:
    """What was sealed comes back whole, and the envelope shows nothing of it."""
    envelope = sealer.seal(PLAIN, PLACE)
    assert is_sealed(envelope)
    assert "provider" not in envelope
    assert sealer.open(envelope, PLACE) == PLAIN
    assert Sealer(Secret("sk-salt-of-this-test")).open(envelope, PLACE) == PLAIN


def test_no_two_envelopes_are_alike(sealer: Sealer) -> None:
    """The nonce is new each time, so equal secrets cannot be told."""
    envelopes = {sealer.seal("same", PLACE) for _ in range(200)}
    assert len(envelopes) == 200


@pytest.mark.parametrize(
    "elsewhere",
    [
        Place("model", "m2", "litellm_params.api_key"),
        Place("model", "m1", "litellm_params.other"),
        Place("credential", "m1", "litellm_params.api_key"),
        Place("modelm", "1", "litellm_params.api_key"),
    ],
    ids=str,
)
def test_an_envelope_opens_nowhere_else(sealer: Sealer, elsewhere: Place) -> None:
    """Copied to another row or field it is refused, and the message names the place only."""
    with pytest.raises(SealBroken) as caught:
        sealer.open(sealer.seal(PLAIN, PLACE), elsewhere)
    assert str(elsewhere) in str(caught.value)
    assert "provider" not in str(caught.value)


def test_another_key_is_named(sealer: Sealer) -> None:
    """With another key the message names row, field, both key ids and the setting."""
    other = Sealer(Secret("sk-another-salt"))
    with pytest.raises(ConfigError) as caught:
        other.open(sealer.seal(PLAIN, PLACE), PLACE)
    for part in (str(PLACE), sealer.key_id, other.key_id, "LITELLM_SALT_KEY"):
        assert part in str(caught.value)


def _flipped(envelope: str) -> str:
    head, _, text = envelope.rpartition(":")
    data = bytearray(base64.urlsafe_b64decode(text))
    data[-1] ^= 1
    return f"{head}:{base64.urlsafe_b64encode(bytes(data)).decode()}"


@pytest.mark.parametrize(
    "damage",
    [_flipped, lambda e: e[:-30], lambda e: e.rpartition(":")[0] + ":", lambda e: e + "\u00e9"],
    ids=["flipped", "cut", "empty", "not-ascii"],
)
def test_damage_is_found(sealer: Sealer, damage: Callable[[str], str]) -> None:
    """A changed, cut or empty envelope is refused with its place."""
    with pytest.raises(SealBroken, match=r"model\[m1\]\.litellm_params\.api_key"):
        sealer.open(damage(sealer.seal(PLAIN, PLACE)), PLACE)


PARAMS = {
    "model": "openai/gpt",
    "api_key": "plain-1",
    "api_base": "https://host/v1",
    "aws_secret_access_key": "plain-2",
    "extra_headers": {"X-Any": "plain-3"},
    "extra_body": {"nested": {"token": "plain-4"}, "list": [{"password": "plain-5"}, "shown"]},
    "timeout": 3,
    "max_tokens": 5,
    "litellm_credential_name": "named",
    "azure_ad_token": "os.environ/AZURE",
}


def test_which_members_of_a_model_are_secret(sealer: Sealer) -> None:
    """Texts under a secret's name and all headers are sealed; references and the rest stay."""
    sealed = model_params("m1").seal(PARAMS, lambda: sealer)
    assert paths_of(sealed, is_sealed, "p") == [
        "p.api_key",
        "p.aws_secret_access_key",
        "p.extra_headers.X-Any",
        "p.extra_body.nested.token",
        "p.extra_body.list[0].password",
    ]
    assert "plain-" not in str(sealed)
    assert model_params("m1").open(sealed, lambda: sealer) == PARAMS
    assert model_params("m1").seal(sealed, lambda: sealer) == sealed
    masked = model_params("m1").masked(sealed)
    assert paths_of(masked, lambda text: text == MASK, "p") == paths_of(sealed, is_sealed, "p")
    assert masked["azure_ad_token"] == "os.environ/AZURE"
    with pytest.raises(SealBroken):
        model_params("m2").open(sealed, lambda: sealer)


def test_every_text_of_a_credential_is_secret(sealer: Sealer) -> None:
    """Of a credential all texts are sealed but references."""
    values = {"api_base": "https://host", "api_key": "k", "region": "os.environ/R", "n": 1}
    sealed = credential_values("c1").seal(values, lambda: sealer)
    assert paths_of(sealed, is_sealed, "v") == ["v.api_base", "v.api_key"]


def test_a_mask_stands_for_what_it_hid() -> None:
    """What comes back from a masked answer keeps the stored secret; other values are new."""
    stored = {"api_key": "E1", "extra_headers": {"A": "E2", "B": "E3"}, "list": ["E4"]}
    sent = {"api_key": MASK, "extra_headers": {"A": MASK, "C": "new"}, "list": [MASK], "n": MASK}
    assert unmasked(sent, stored) == {
        "api_key": "E1",
        "extra_headers": {"A": "E2", "C": "new"},
        "list": ["E4"],
        "n": MASK,
    }


def test_the_library_is_loaded_only_for_a_secret() -> None:
    """Everything that a worker imports, and a sealer itself, leave the 7 MB library alone."""
    code = """
import sys, services.worker.__main__
from shared.config.secret import Secret
from shared.secrets.members import model_params
from shared.secrets.sealing import Sealer
sealer = Sealer(Secret("x"))
members = model_params("m1")
assert members.open(members.seal({"model": "openai/x"}, lambda: sealer), lambda: sealer)
print(*[name for name in sys.modules if name.startswith("cryptography")])
members.seal({"api_key": "x"}, lambda: sealer)
print("cryptography" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:2] == ["", "True"]
