import pytest
from pydantic import ValidationError

from deepspot.encoders import EncoderCard


def test_defaults_are_imagenets():
    card = EncoderCard(name="x", dim=3)
    assert card.input_px == 224
    assert card.mean == (0.485, 0.456, 0.406)
    assert card.std == (0.229, 0.224, 0.225)
    assert (card.mpp, card.licence, card.gated, card.source) == (None, "unknown", False, "user")


@pytest.mark.parametrize(
    "wrong",
    [{"dim": 0}, {"dim": -1}, {"input_px": 0}, {"std": (0.2, 0, 0.2)}, {"mean": (0.5, 0.5)}, {"colour": "red"}],
)
def test_refuses(wrong):
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        EncoderCard(**({"name": "x", "dim": 3} | wrong))


def test_needs_name_and_dim():
    with pytest.raises(ValidationError, match=r"name\n  Field required"):
        EncoderCard(dim=3)
    with pytest.raises(ValidationError, match=r"dim\n  Field required"):
        EncoderCard(name="x")


def test_cannot_be_changed():
    card = EncoderCard(name="x", dim=3)
    with pytest.raises(ValidationError, match="frozen"):
        card.dim = 4


def test_survives_json():
    card = EncoderCard(name="x", dim=3, mpp=0.5, gated=True, licence="CC BY-NC")
    assert EncoderCard.model_validate_json(card.model_dump_json()) == card
