import pytest
from hypothesis import given
from hypothesis import strategies as st

from deepspot.datasets._hest.files import SOURCE
from deepspot.datasets._shared.published import at_hand, check_name, locate


@pytest.mark.parametrize("name", ["TENX152", "INT1", "TCGA-BF-AAP6-01Z-00-DX1.EFF1D6E1-CDBC-4401-A10A"])
def test_names(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/../b", "a/b", "/a", "a\\b", "a..b", ".a", "a.", "a b", "a*", "a[b]", "a{}", "a\n"],
)
def test_paths_are_no_names(name):
    with pytest.raises(ValueError, match="`sample` must be the name of a sample"):
        check_name(name)


def test_names_are_text():
    with pytest.raises(TypeError, match="`sample` must be text"):
        check_name(152)


@given(st.text(max_size=30))
def test_no_name_leads_out_of_a_folder(tmp_path_factory, text):
    root = tmp_path_factory.getbasetemp().resolve()
    try:
        name = check_name(text)
    except ValueError:
        return
    for parts in SOURCE.layouts.values():
        for patterns in parts.values():
            for pattern in patterns:
                path = (root / pattern.format(name)).resolve()
                assert path.is_relative_to(root)
                assert path.name == pattern.format(name).rpartition("/")[2]


def test_the_first_complete_place_counts(tmp_path):
    for place, names in {"a": ("st/X.h5ad",), "b": ("st/X.h5ad", "wsis/X.tif", "metadata/X.json")}.items():
        for name in names:
            (tmp_path / place / name).parent.mkdir(parents=True)
            (tmp_path / place / name).touch()
    places = [tmp_path / "a", tmp_path / "b"]
    files, nearly = locate(SOURCE, places, "X")
    assert files.layout == "published"
    assert files.paths["image"] == tmp_path / "b/wsis/X.tif"
    assert nearly == []
    files, nearly = locate(SOURCE, places[:1], "X")
    assert files is None
    assert nearly == [f"{tmp_path / 'a'} holds ['X.h5ad'], but lacks ['wsis/X.tif', 'metadata/X.json']"]
    assert locate(SOURCE, places, "Y") == (None, [])
    assert at_hand(SOURCE, places) == ["X"]


def test_a_folder_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"There is no folder .*nowhere.* 'st', 'wsis' and 'metadata'"):
        SOURCE.places(tmp_path / "nowhere")
