import h5py
import pytest

from deepspot.datasets._tables import read_table


def test_links_and_zip_bombs_are_refused(tmp_path):
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = [1]
    with h5py.File(tmp_path / "link.h5ad", "w") as file:
        file["obs"] = h5py.ExternalLink("other.h5", "secret")
    with pytest.raises(ValueError, match=r"link\.h5ad links 'obs' to another file"):
        read_table(tmp_path / "link.h5ad")
    with h5py.File(tmp_path / "bomb.h5ad", "w") as file:
        file.create_dataset("X", (10**6, 10**4), "f4", chunks=(1000, 1000), compression="gzip")
    with pytest.raises(ValueError, match=r"bomb\.h5ad unpacks to 40\.0 GB"):
        read_table(tmp_path / "bomb.h5ad")
