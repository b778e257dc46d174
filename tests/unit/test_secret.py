"""`Secret`: no accidental path gives the text out."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import traceback

import attrs
import msgspec
import pytest

from shared.config.secret import Secret

PLAIN = "sk-very-private-text"


@attrs.frozen
class Holder:
    secret: Secret


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        "{}".format,
        "{!r}".format,
        "{:>40}".format,
        lambda secret: f"{secret}",
        lambda secret: "%s %r" % (secret, secret),  # noqa: UP031 - old formatting is the point
        lambda secret: repr([secret, {"key": secret}]),
        lambda secret: repr(Holder(secret)),
        lambda secret: repr(attrs.asdict(Holder(secret))),
        lambda secret: json.dumps({"key": secret}, default=str),
        lambda secret: json.dumps({"key": secret}, default=repr),
        lambda secret: msgspec.json.encode({"key": secret}, enc_hook=str).decode(),
        lambda secret: str(Exception(secret)),
        lambda secret: repr(copy.deepcopy(Holder(secret))),
        ascii,
    ],
)
def test_shown_masked(show):
    """Every usual way of turning a value into text shows the mask."""
    text = show(Secret(PLAIN))
    assert PLAIN not in text
    assert "*" in text


@pytest.mark.parametrize("encode", [json.dumps, msgspec.json.encode, pickle.dumps])
def test_refuses_to_be_stored(encode):
    """JSON without a hook and pickle refuse rather than write the text."""
    with pytest.raises(TypeError) as caught:
        encode(Secret(PLAIN))
    assert PLAIN not in str(caught.value)


def test_log_and_traceback(caplog):
    """Neither a log record nor a formatted traceback holds the text."""
    secret = Secret(PLAIN)
    try:
        raise RuntimeError("failed", secret)
    except RuntimeError:
        logging.getLogger("secret").exception("with %s and %r", secret, secret)
        assert PLAIN not in traceback.format_exc()
    assert PLAIN not in caplog.text


def test_has_no_dict_and_cannot_change():
    """`vars` finds nothing and nothing can be put in or taken out."""
    secret = Secret(PLAIN)
    with pytest.raises(TypeError):
        vars(secret)
    with pytest.raises(AttributeError):
        secret._value = "other"
    with pytest.raises(AttributeError):
        del secret._value
    assert secret.reveal() == PLAIN


def test_equality_truth_and_matching():
    """Equal by text, never equal to a plain text, false when empty."""
    assert Secret(PLAIN) == Secret(PLAIN)
    assert Secret(PLAIN) != Secret(PLAIN + "x")
    assert Secret(PLAIN) != PLAIN
    assert hash(Secret(PLAIN)) == hash(Secret(PLAIN))
    assert Secret(PLAIN)
    assert not Secret("")
    assert Secret(PLAIN).matches(PLAIN)
    assert not Secret(PLAIN).matches(PLAIN[:-1])


def test_bytes_that_are_no_utf8_can_be_compared():
    """A text with lone surrogates, as the environment may hold, compares without an error."""
    assert Secret("k\udcff").matches("k\udcff")
    assert not Secret("k\udcff").matches("k\udcfe")
