"""The card as a page: what is on it, and that what a card says stays text."""

import html
import re

import pytest
import yaml
from markdown_it import MarkdownIt

import deepspot as ds


def changed(card, **fields):
    return card.model_copy(update=fields)


def metadata(card):
    return yaml.safe_load(card.to_markdown().split("---\n")[1])


def text_of(card):
    return html.unescape(re.sub(r"\\(?=\W)|\*\*", "", card.to_markdown()))


def test_metadata_is_what_hugging_face_reads():
    found = metadata(ds.models.load().card)
    assert found["license"] == "cc-by-4.0"
    assert found["library_name"] == "deepspot"
    assert found["pipeline_tag"] == "other"
    assert {"spatial-transcriptomics", "histopathology"} <= set(found["tags"])
    assert "base_model" not in found


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        ("CC BY-NC-ND 4.0", ("cc-by-nc-nd-4.0", None)),
        ("Apache-2.0", ("apache-2.0", None)),
        ("unknown", ("unknown", None)),
        ("", ("unknown", None)),
        ("Ours: ask us\nlicense: mit", ("other", "ours-ask-us-license-mit")),
    ],
)
def test_licenses(tiny, license, expected):
    found = metadata(changed(tiny.card, license=license))
    assert (found["license"], found.get("license_name")) == expected


def test_the_encoder_is_the_base_model(tiny):
    encoder = tiny.card.encoder.model_copy(
        update={
            "name": "uni",
            "gated": True,
            "url": "https://huggingface.co/MahmoodLab/UNI",
            "license": "CC-BY-NC-ND-4.0",
        }
    )
    card = changed(tiny.card, encoder=encoder)
    assert metadata(card)["base_model"] == "MahmoodLab/UNI"
    assert "gated: request access" in text_of(card)
    assert "| page | <https://huggingface.co/MahmoodLab/UNI> |" in text_of(card)
    assert "| license of its weights | CC-BY-NC-ND-4.0 |" in text_of(card)


def test_page_of_embedded_model_states_its_limits():
    page = text_of(ds.models.load().card)
    for told in (
        "1,000 genes",
        "breast, HER2-positive carcinoma",
        "License: CC BY 4.0",
        "5 slides of 2 patients",
        "| C | C2 | 187 |",
        "| tile of a spot | 100 × 100 µm |",
        "| neighbors | at most 8, within 301 µm |",
        "| name | lite0_stats |",
        "r 0.234 on 2 held-out patients",
        "median over genes 0.24",
        "The predicted genes hold about 1.2 independent patterns",
        "the mean r is 38 % of what a perfect prediction could reach",
        "| below 0.1 | 114 |",
        "Prediction intervals: none.",
        "need at least 5",
        "not stated",
        "not a cell",
        "timm 1.0.31",
        "2084c535afb82cef6a5b3ba6a9c8a71cc9956966a6ecdd861d97885931c200f9",
    ):
        assert told in page, told


def test_the_three_lines_run():
    page = ds.models.load().card.to_markdown("her2st")
    lines = re.search(r"```python\n(.*?)```", page, flags=re.S).group(1).strip().splitlines()
    assert len([line for line in lines if line]) == 3
    known = {}
    exec("\n".join(lines[:3]), known)
    assert known["model"].card.name == "her2st"


def test_a_converted_model_does_not_claim_what_is_not_known(tiny):
    card = changed(tiny.card, gate=None, reliability=None, slides=[], tissue="", geometry=None, license="unknown")
    page = text_of(card)
    for told in (
        "does not state the training slides",
        "Not measured",
        "an unspecified tissue",
        "size of its tiles is unknown",
        "unknown; ask the authors",
    ):
        assert told in page, told
    assert "length 6" in text_of(changed(card, encoder=None))


PATTERNS = {"patterns_predicted": 2.34, "patterns_measured": 9.0}


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        (
            {"half_width": [0.5, 0.7, None, 0.6], "n": 6},
            "Prediction intervals at 80%, calibrated over patients: ± 0.60",
        ),
        ({"unit": "slides"}, "too high for a new patient"),
        ({}, "Genes without an r: 1."),
        (PATTERNS, "hold about 2.3 independent patterns"),
        (PATTERNS | {"r_beyond_axis": [0.1, None, 0.2, 0.3]}, "the mean r is 0.20"),
        ({"r": [None] * 4, "r_low": [None] * 4, "r_high": [None] * 4}, "No gene varied"),
    ],
)
def test_reliability(tiny, fields, told):
    page = text_of(changed(tiny.card, reliability=tiny.card.reliability.model_copy(update=fields)))
    assert told in page


EVIL = [
    "<script>alert(1)</script>",
    "[click](javascript:alert(1))",
    "![x](https://evil.example/x.png)",
    "`code`",
    "a | b\n\n# heading",
    "https://evil.example",
    "www.evil.example",
    "<img src=x onerror=alert(1)>",
    "*a* _b_ ~~c~~",
    "\u202egnp.exe",
    "---",
    "&lt;b&gt;",
]


@pytest.mark.parametrize("evil", EVIL)
def test_card_text_is_escaped(tiny, evil):
    """Rendered as Hugging Face and notebooks do, with HTML allowed, there is no more markup than without it."""

    def tags(word):
        encoder = tiny.card.encoder.model_copy(update=dict.fromkeys(["name", "license", "source", "note", "url"], word))
        texts = dict.fromkeys(["name", "note", "tissue", "license", "depth", "scale", "sha256", "preset"], word)
        slide = tiny.card.slides[0].model_copy(update={"slide": word, "patient": word})
        card = changed(tiny.card, **texts, genes=[word, *"BCD"], encoder=encoder, versions={word: word}, slides=[slide])
        yaml_part, page = card.to_markdown().split("\n---\n", 1)
        assert set(yaml.safe_load(yaml_part)) <= {"license", "license_name", "library_name", "pipeline_tag", "tags"}
        rendered = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(page)
        return re.findall(r"<[^>]*>", rendered), rendered

    found, rendered = tags(evil)
    assert found == tags("word")[0]
    assert "\u202e" not in rendered
    assert "https://evil" not in rendered
    assert "www.evil" not in rendered


def test_notebooks_show_it_without_metadata(tiny):
    assert tiny.card._repr_markdown_().startswith("# tiny\n")


def test_a_printed_card_is_a_page_and_its_repr_a_line(tiny):
    card = ds.models.load().card
    assert str(card).startswith("# her2st\n")
    assert len(str(card)) < 10_000
    assert repr(card).startswith("ModelCard 'her2st': 1,000 genes from lite0_stats")
    assert "\n" not in repr(card)
    assert repr(card.reliability).startswith("Reliability of 1,000 genes on 2 held-out patients, median r 0.")
    assert tiny._repr_markdown_().endswith(str(tiny.card))
    assert ds.models.DeepSpot()._repr_markdown_() is None
