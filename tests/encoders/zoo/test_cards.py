import json
from pathlib import Path

import pytest

import deepspot as ds
from deepspot.encoders._zoo.specs import REFUSED, SPECS

PAPER = ["uni", "h-optimus-0", "phikon", "phikon-v2", "densenet121", "resnet50", "inception_v3"]
TODAY = ["uni2-h", "h-optimus-1", "h0-mini", "virchow2", "prov-gigapath", "midnight"]
# Where the registry of lazyslide-models says something else: H-optimus-0 asks who one is, Midnight is public.
GATED_OTHERWISE = {"h-optimus-0", "midnight"}


def plain(license):
    return license.lower().replace("license", "license").replace(" ", "-")


def test_registry_has_all_expected_encoders():
    table = ds.encoders.available()
    assert {*PAPER, *TODAY, "conch_v1_5", "hibou-b", "hibou-l"} <= set(table.index)
    cards = table.loc[[*PAPER, *TODAY]]
    assert (cards["license"] != "unknown").all()
    assert cards["url"].str.startswith("https://huggingface.co/").all()
    assert (cards["architecture"] != "").all()
    assert (cards["remote_code"] == "").all()
    histology = cards.drop(["densenet121", "resnet50", "inception_v3"])
    assert (histology["mpp"] == 0.5).all()
    assert cards["mpp"].isna().sum() == 3


@pytest.mark.parametrize("name", [name for name in SPECS if name not in (*PAPER[4:], "h-optimus-0_bilinear")])
def test_license_gating_page_and_dimension_are_those_of_the_registry(upstream, name):
    known, card = upstream.model(name), SPECS[name].card
    assert card.dim == known.encode_dim
    assert card.url.lower() == known.hf_url.lower()
    assert plain(known.license).startswith(plain(card.license)[:10])
    assert (card.gated != known.is_gated) == (name in GATED_OTHERWISE)
    size = float(known.param_size[:-1]) * {"M": 1, "B": 1000}[known.param_size[-1]]
    assert SPECS[name].parameters == pytest.approx(size, rel=0.02)


def test_refused_encoders_are_listed(upstream):
    from lazyslide_models import MODEL_REGISTRY

    for card in REFUSED.values():
        known = MODEL_REGISTRY[{"conch_v1_5": "conch_v1.5"}.get(card.name, card.name)]
        assert card.dim == known.encode_dim
        assert card.gated == known.is_gated


def test_h_optimus_variants_share_weights():
    a, b = SPECS["h-optimus-0"], SPECS["h-optimus-0_bilinear"]
    assert a.repositories == b.repositories
    assert b.folder == a.folder == "h-optimus-0"
    assert a.card.preprocessing() != b.card.preprocessing()


def test_fingerprint_of_the_embedded_model_is_still_that_of_its_encoder():
    folder = Path(ds.__file__).parent / "models" / "embedded" / "her2st"
    card = json.loads((folder / "card.json").read_text())
    assert card["encoder"].keys() == ds.encoders.EncoderCard.model_fields.keys()
    known = ds.encoders.EncoderCard(**card["encoder"])
    assert known == ds.encoders.get().card.model_copy(update={"note": known.note})
    assert ds.encoders.get().fingerprint == card["encoder_fingerprint"]
