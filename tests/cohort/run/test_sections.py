import pandas as pd
import pytest

import deepspot as ds
from deepspot.cohort._run.manifest import read_manifest
from deepspot.cohort._run.sections import choose_sections

NAMES = [
    "TCGA-AB-0001-01A-01-BS1.1b2c",
    "TCGA-AB-0001-01A-02-TS1.3d4e",
    "TCGA-AB-0001-01A-01-TS2.5f6a",
    "TCGA-AB-0001-01A-01-TS1.7b8c",
    "TCGA-AB-0001-06A-01-MS1.9d0e",  # a metastasis of the same patient
    "TCGA-AB-0001-01Z-00-DX1.1f2a",
    "TCGA-AB-0001-01Z-00-DX2.3b4c",
    "TCGA-CD-0002-01A-01-BSB.5d6e",
    "TCGA-CD-0002-01A-01-BSA.7f8a",
]


@pytest.fixture
def manifest(tmp_path):
    """Files whose size grows from one to the next."""
    for number, name in enumerate(NAMES):
        (tmp_path / f"{name}.svs").write_bytes(b"x" * (number + 1))
    paths = [str(tmp_path / f"{name}.svs") for name in NAMES]
    return pd.DataFrame({"path": paths, "patient": [name[:12] for name in NAMES]})


def kept(manifest, rule):
    chosen = choose_sections(read_manifest(manifest), rule)
    return [str(name).partition(".")[0] for name in chosen.index]


DIAGNOSTIC = ["TCGA-AB-0001-01Z-00-DX1", "TCGA-AB-0001-01Z-00-DX2"]


def test_the_top_section_of_each_frozen_sample(manifest, log):
    expected = ["TCGA-AB-0001-01A-01-TS1", "TCGA-AB-0001-06A-01-MS1", *DIAGNOSTIC, "TCGA-CD-0002-01A-01-BSA"]
    assert kept(manifest, "top") == expected
    assert log[-1].startswith("Only the top section of each sample is kept. Left out: TCGA-AB-0001-01A-01-BS1")
    assert kept(manifest[::-1], "top") == expected[::-1]  # whatever the order


def test_the_largest_section_by_area_or_else_by_file(manifest):
    by_file = ["TCGA-AB-0001-01A-01-TS1", "TCGA-AB-0001-06A-01-MS1", *DIAGNOSTIC, "TCGA-CD-0002-01A-01-BSA"]
    assert kept(manifest, "largest") == by_file
    area = [90.0, 20, 30, 40, 1, 1, 1, 5, None]
    by_area = ["TCGA-AB-0001-01A-01-BS1", "TCGA-AB-0001-06A-01-MS1", *DIAGNOSTIC, "TCGA-CD-0002-01A-01-BSA"]
    assert kept(manifest.assign(tissue_area=area), "largest") == by_area  # the area of one of the last two is unknown


def test_equal_samples_of_two_patients(manifest):
    rows = manifest[-2:].assign(slide=["one", "two"], sample="tumor", tissue_area=[2.0, 1.0], patient=["A", "B"])
    assert kept(rows, "largest") == ["one", "two"]


def test_samples_of_a_column(manifest):
    rows = manifest[-2:].assign(slide=["one", "two"], sample="S", tissue_area=[2.0, 1.0])
    rows["path"] = [path.replace("TCGA", "X") for path in rows["path"]]
    assert kept(rows, "largest") == ["one"]
    assert kept(rows.assign(preservation="FFPE"), "largest") == ["one", "two"]
    assert kept(rows.drop(columns="sample"), "largest") == ["one", "two"]  # samples are unknown
    with pytest.raises(
        ValueError, match=r"top one is unknown: \['one', 'two'\] are no barcodes.*`sections=\"largest\"`"
    ):
        kept(rows, "top")


def test_a_run_predicts_only_the_chosen_sections(manifest, tmp_path):
    runs = ds.cohort.run(manifest, None, tmp_path / "out", sections="top")
    assert [name.partition(".")[0] for name in runs.index] == kept(manifest, "top")
    assert set(runs["status"]) == {"failed"}  # no images
    with pytest.raises(KeyError, match="'middle'` not found in `sections`"):
        ds.cohort.run(manifest, None, tmp_path / "out2", sections="middle")
    assert not (tmp_path / "out2").exists()
