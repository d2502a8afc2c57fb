import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from deepspot._core.keys import is_label
from deepspot.encoders import EncoderCard


def test_defaults_are_imagenets():
    card = EncoderCard(name="x", dim=3)
    assert card.input_px == 224
    assert card.mean == (0.485, 0.456, 0.406)
    assert card.std == (0.229, 0.224, 0.225)
    assert (card.mpp, card.license, card.gated, card.source) == (None, "unknown", False, "user")


@pytest.mark.parametrize(
    "wrong",
    [
        {"dim": 0},
        {"dim": -1},
        {"input_px": 0},
        {"std": (0.2, 0, 0.2)},
        {"mean": (0.5, 0.5)},
        {"color": "red"},
        {"resize_px": 223},
        {"interpolation": "nearest"},
        {"resize_as": "float16"},
        {"pooling": "max"},
        {"name": "a\nb"},
    ],
)
def test_invalid_cards_are_refused(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EncoderCard(**({"name": "x", "dim": 3} | wrong))


def test_card_is_immutable():
    card = EncoderCard(name="x", dim=3)
    with pytest.raises(ValidationError, match="frozen"):
        card.dim = 4


SIDE = st.integers(-2, 600)
CARDS = st.fixed_dictionaries(
    {"name": st.text(), "dim": SIDE, "std": st.tuples(*[st.floats(-1, 2)] * 3)},
    optional={
        "input_px": SIDE,
        "resize_px": st.none() | SIDE,
        "interpolation": st.sampled_from(["bilinear", "bicubic"]),
        "resize_as": st.sampled_from(["float", "uint8", "pillow"]),
        "pooling": st.sampled_from(["cls", "cls+mean", "pooled"]),
        "mpp": st.none() | st.floats(0.1, 4),
        "gated": st.booleans(),
        "note": st.text(),
    },
)


@given(CARDS)
def test_any_card_is_valid_or_refused(fields):
    side = fields.get("input_px", 224)
    resized = fields.get("resize_px")
    sound = fields["dim"] > 0 and side > 0 and min(fields["std"]) > 0 and (resized is None or resized >= side)
    sound = sound and is_label(fields["name"])
    if not sound:
        with pytest.raises(ValidationError):
            EncoderCard(**fields)
        return
    card = EncoderCard(**fields)
    assert EncoderCard.model_validate_json(card.model_dump_json()) == card
    newer = {"resize_px", "interpolation", "resize_as"}
    changed = {key for key in newer if getattr(card, key) != EncoderCard.model_fields[key].default}
    assert set(card.preprocessing()) == {"dim", "input_px", "mean", "std"} | changed
    assert all(math.isfinite(value) for value in card.preprocessing()["std"])


def test_older_card_loads():
    old = '{"name": "x", "dim": 3, "input_px": 224, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "mpp": null, '
    old += '"license": "MIT", "gated": false, "source": "user", "note": ""}'
    card = EncoderCard.model_validate_json(old)
    assert (card.resize_px, card.interpolation, card.resize_as) == (None, "bilinear", "float")
    assert set(card.preprocessing()) == {"dim", "input_px", "mean", "std"}
