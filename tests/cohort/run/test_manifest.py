import numpy as np
import pandas as pd
import pytest
from anndata import AnnData, read_h5ad

import deepspot as ds
from deepspot.cohort._run.manifest import read_manifest


def frame(**columns):
    return pd.DataFrame({"path": ["a/one.svs", "two.svs"], "patient": ["P1", "P2"], **columns})


def test_paths_are_relative_to_the_folder_of_the_csv(tmp_path):
    frame().to_csv(tmp_path / "manifest.csv", index=False)
    read = read_manifest(tmp_path / "manifest.csv")
    assert read.index.tolist() == ["one", "two"]
    assert read["path"].tolist() == [str(tmp_path / "a" / "one.svs"), str(tmp_path / "two.svs")]


def test_paths_of_a_frame_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert read_manifest(frame())["path"].iloc[1] == str(tmp_path / "two.svs")


def test_absolute_paths_stay(tmp_path):
    rows = frame(path=["/data/one.svs", "/data/two.svs"])
    assert read_manifest(rows)["path"].tolist() == ["/data/one.svs", "/data/two.svs"]


def test_a_data_frame_is_not_changed():
    rows = frame(preservation=["ff", None])
    before = rows.copy()
    read_manifest(rows)
    pd.testing.assert_frame_equal(rows, before)


def test_csv_of_a_spreadsheet(tmp_path):
    text = "path, patient, mpp, preservation, stage\none.svs, 007, 0.5, ffpe, II\ntwo.svs, 7, , , III\n"
    (tmp_path / "manifest.csv").write_text(text, encoding="utf-8-sig")
    read = read_manifest(tmp_path / "manifest.csv")
    assert read["patient"].tolist() == ["007", "7"]
    assert read["mpp"].tolist()[0] == 0.5
    assert np.isnan(read["mpp"].iloc[1])
    assert read["preservation"].iloc[0] == "FFPE"
    assert pd.isna(read["preservation"].iloc[1])
    assert read["stage"].tolist() == ["II", "III"]


def test_columns_of_a_csv_are_numbers_only_without_loss(tmp_path):
    (tmp_path / "manifest.csv").write_text(
        "path,patient,sample,well,barcode,months,status_at_end,age,p,alive,tissue_area,note\n"
        "one.svs,1,0012,1E5,12345678901234567890,12.5,1,60,1e-05,True,3.0,\n"
        "two.svs,2,,2E5,12345678901234567891,.5,0,,0.50,False,,\n"
    )
    read = read_manifest(tmp_path / "manifest.csv")
    assert read["sample"].iloc[0] == "0012"
    assert pd.isna(read["sample"].iloc[1])
    assert read["well"].tolist() == ["1E5", "2E5"]
    assert read["barcode"].tolist() == ["12345678901234567890", "12345678901234567891"]
    assert read["months"].tolist() == [12.5, 0.5]
    assert read["status_at_end"].tolist() == [1, 0]
    assert read["status_at_end"].dtype == np.int64
    np.testing.assert_array_equal(read["age"], [60, np.nan])
    assert read["p"].tolist() == [1e-05, 0.5]
    assert read["alive"].dtype == bool
    assert read["alive"].tolist() == [True, False]
    np.testing.assert_array_equal(read["tissue_area"], [3, np.nan])
    assert read["note"].isna().all()
    AnnData(obs=read).write_h5ad(tmp_path / "rows.h5ad")
    obs = read_h5ad(tmp_path / "rows.h5ad").obs
    assert obs["sample"].tolist()[0] == "0012"
    assert obs["months"].dtype == np.float64


def test_default_names_are_those_of_the_files():
    rows = frame(path=["TCGA-3C AALI.F6-B.svs", "two.svs"], slide=[None, "mine"])
    assert read_manifest(rows).index.tolist() == ["TCGA-3C_AALI.F6-B", "mine"]


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"patient": ["P1", None]}, "`patient` is empty in row 3."),
        ({"patient": ["P1", "  "]}, "`patient` is empty in row 3."),
        ({"path": [None, "two.svs"]}, "`path` is empty in row 2."),
        ({"mpp": ["0.5", "half"]}, "`mpp` must be a number above 0, got 'half' in row 3."),
        ({"mpp": [0.5, -1]}, "`mpp` must be a number above 0, got -1.0 in row 3."),
        ({"tissue_area": [np.inf, 1]}, "`tissue_area` must be a number above 0, got inf in row 2."),
        (
            {"preservation": ["FF", "wax"]},
            r"`preservation` must be one of \['FF', 'FFPE'\] or empty, got 'WAX' in row 3",
        ),
        ({"path": ["a/s.svs", "b/S.svs"]}, "Slide name 's' is given to 2 slides, in rows 2, 3"),
        ({"slide": ["x", "x"]}, "Slide name 'x' is given to 2 slides, in rows 2, 3"),
        ({"slide": ["a/b", "x"]}, "`slide` may contain letters.* got 'a/b' in row 2"),
        ({"slide": ["a", "x" * 300]}, "The slide name 'x+'… in row 3 is too long"),
        ({"path": ["a\0.svs", "two.svs"]}, "`path` is no path: .* contains a null character, in row 2."),
        (
            {"path": ["one.svs", "~nobody-of-this-name/two.svs"]},
            "unknown user: '~nobody-of-this-name/two.svs', in row 3.",
        ),
        ({"spots": [1, 2]}, r"columns \['spots'\], which are names of results"),
    ],
)
def test_mistakes_are_listed(columns, text):
    with pytest.raises(ValueError, match=text):
        read_manifest(frame(**columns))


def test_all_mistakes_are_listed():
    with pytest.raises(ValueError, match=r"(?s)`patient` is empty in row 2.*got 'x' in row 3.*Slide name 's'"):
        read_manifest(frame(path=["a/s.svs", "s.svs"], patient=[None, "P"], mpp=[1, "x"]))


def test_many_mistakes_are_counted():
    rows = pd.DataFrame({"path": [f"{i}.svs" for i in range(30)], "patient": "P", "mpp": "x"})
    with pytest.raises(ValueError, match="… and 20 more"):
        read_manifest(rows)


def test_missing_columns():
    with pytest.raises(ValueError, match=r"lacks the columns \['path', 'patient'\]; it has \['file'\]"):
        read_manifest(pd.DataFrame({"file": ["one.svs"]}))


def test_columns_that_cannot_be_written():
    with pytest.raises(TypeError, match="stage"):
        read_manifest(frame(stage=[pd.Timestamp("2020-01-01"), None]))


def test_columns_of_all_kinds_can_be_written(tmp_path):
    kinds = {"a": [True, None], "b": [1, "x"], "c": [None, None], "d": [1.5, None], "e": [True, False], "f": [1, 2]}
    read = read_manifest(frame(**kinds, preservation=[None, None]))
    AnnData(obs=read).write_h5ad(tmp_path / "rows.h5ad")
    obs = read_h5ad(tmp_path / "rows.h5ad").obs
    assert obs["a"].tolist()[0] == "True"
    assert obs["b"].tolist() == ["1", "x"]
    assert obs["c"].isna().all()
    assert obs["e"].tolist() == [True, False]


def test_no_rows():
    with pytest.raises(ValueError, match="no rows"):
        read_manifest(frame()[:0])


def test_no_file():
    with pytest.raises(FileNotFoundError, match=r"no manifest 'nowhere\.csv'"):
        read_manifest("nowhere.csv")


def test_semicolons_of_spreadsheets(tmp_path):
    frame(mpp=[0.25, 0.5], note=["a, b", "c"]).to_csv(
        tmp_path / "a.csv", index=False, sep=";", decimal=",", encoding="utf-8-sig"
    )
    read = read_manifest(tmp_path / "a.csv")
    assert read["mpp"].tolist() == [0.25, 0.5]
    assert read["note"].tolist() == ["a, b", "c"]
    assert read["patient"].tolist() == ["P1", "P2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "path,patient\na.svs,P1\nb.svs,P2,c.svs,P3\n",
            "more fields than columns in row 3. Quote text that contains ','",
        ),
        ("path,patient,patient\na.svs,P1,P2\n", r"several columns \['patient'\]"),
    ],
)
def test_fields_that_belong_to_no_column(tmp_path, text, message):
    (tmp_path / "manifest.csv").write_text(text)
    with pytest.raises(ds.errors.InputError, match=message):
        read_manifest(tmp_path / "manifest.csv")


def test_empty_fields_behind_the_last_column_are_ignored(tmp_path):
    (tmp_path / "manifest.csv").write_text('path,patient\na.svs,P1,,\n"b,1.svs",P2,\n')
    slides = read_manifest(tmp_path / "manifest.csv")
    assert slides["patient"].to_dict() == {"a": "P1", "b_1": "P2"}


def test_a_list_is_no_manifest():
    with pytest.raises(TypeError, match=r"`manifest` must be the path of a CSV, or a data frame .* got list"):
        read_manifest(["a.svs"])
    for columns in ([3, "path", "patient"], ["path", "patient", "patient"]):
        with pytest.raises(ValueError, match="Columns of the manifest must be text, each with its own name, got"):
            read_manifest(pd.DataFrame([["a.svs", "P1", "x"]], columns=columns))


def test_no_csv(tmp_path):
    (tmp_path / "empty.csv").touch()
    with pytest.raises(ValueError, match="cannot be read as a CSV in UTF-8"):
        read_manifest(tmp_path / "empty.csv")


def test_nothing_starts_with_a_bad_manifest(tmp_path):
    with pytest.raises(ValueError, match="manifest"):
        ds.cohort.run(frame(patient=[None, "P"]), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_one_slide_of_two_patients(tmp_path, log):
    for name, content in (("a", b"one"), ("b", b"two"), ("copy", b"one"), ("longer", b"three")):
        (tmp_path / name).write_bytes(content)
    other = str(tmp_path / "b")

    def rows(path, patient="P2"):
        return frame(path=[str(tmp_path / "a"), path], patient=["P1", patient], slide=["x", "y"])

    for same in (tmp_path / "a", tmp_path / "sub" / ".." / "a", tmp_path / "copy"):
        with pytest.raises(ValueError, match=r"same slide in rows 2, 3.*of the patients \['P1', 'P2'\]"):
            read_manifest(rows(str(same)))
        assert not log
        read_manifest(rows(str(same), "P1"))
        assert "count several times for patient 'P1'" in log.pop()
    for path in (other, str(tmp_path / "longer"), str(tmp_path / "absent")):
        read_manifest(rows(path))
    assert not log
