import zipfile

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import deepspot as ds

from .conftest import FILES, rewrite


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.99])
def test_a_truncated_file_is_refused(folder, share):
    data = (folder / FILES[0]).read_bytes()
    (folder / FILES[0]).write_bytes(data[: int(share * len(data))])
    with pytest.raises(ValueError, match=r"not a readable checkpoint|Get a new copy"):
        ds.models.convert_legacy(folder)


def test_several_models_in_one_zip_have_to_be_unzipped(folder, tmp_path):
    together = folder / "weights.zip"
    with zipfile.ZipFile(together, "w") as file:
        file.write(folder / FILES[0], f"Colon/{FILES[0]}")
    with pytest.raises(ValueError, match="Unzip a download"):
        ds.models.convert_legacy(together, encoder="tiny")


def test_compressed_entries_are_refused_before_they_are_unpacked(folder):
    with zipfile.ZipFile(folder / FILES[0], "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("final_model/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(ValueError, match="does not write"):
        ds.models.convert_legacy(folder)


def test_tensors_that_are_missing_or_of_another_size_are_refused(folder):
    rewrite(folder, lambda entries: {name: data for name, data in entries.items() if not name.endswith("data/0")})
    with pytest.raises(ValueError, match="is missing"):
        ds.models.convert_legacy(folder)


@pytest.mark.parametrize("change", [lambda data: data[:-4], lambda data: data + b"\0\0\0\0"])
def test_a_storage_that_is_shorter_or_longer_than_its_tensor_is_refused(folder, change):
    rewrite(folder, lambda entries: {n: change(data) if n.endswith("data/0") else data for n, data in entries.items()})
    with pytest.raises(ValueError, match=r"bytes for a tensor|does not write"):
        ds.models.convert_legacy(folder)


def test_another_byte_order_is_refused(folder):
    rewrite(folder, lambda entries: {name: b"big" if "byteorder" in name else data for name, data in entries.items()})
    with pytest.raises(ValueError, match="byte order"):
        ds.models.convert_legacy(folder)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_mutated_checkpoints_convert_or_are_refused(folder, data):
    path = folder / FILES[0]
    whole = path.read_bytes()
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        changed[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(changed)
    assert converts_or_names_the_file(folder)
    path.write_bytes(whole)


def converts_or_names_the_file(folder):
    try:
        return ds.models.convert_legacy(folder)
    except ValueError as error:
        return str(folder) in str(error)
