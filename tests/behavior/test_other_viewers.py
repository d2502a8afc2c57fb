"""Other viewers of the ecosystem open a slide with a prediction as it is: the calls of docs/other_viewers.md.

napari and Vitessce are not installed with the package. napari has a plugin of pytest that warns at its start: pass
`-W ignore`.
"""

import json
import re
from pathlib import Path

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import shapely
from spatialdata import read_zarr

PAGE = Path(__file__).parents[2] / "docs" / "other_viewers.md"
GENE, KEY = "ERBB2", "deepspot_spots"


@pytest.fixture
def predicted(slide, add_table):
    """A slide with measured and predicted genes of the same shapes."""
    values = np.linspace(0, 3, len(slide.shapes["spots"]))
    add_table(slide, np.column_stack([values, 3 - values]), [GENE, "FASN"])
    slide.tables[KEY].obs["ood"] = values > 2
    return slide


@pytest.fixture
def store(predicted, tmp_path):
    predicted.write(tmp_path / "slide.zarr")
    return tmp_path / "slide.zarr"


@pytest.mark.filterwarnings("ignore")  # of the other packages
def test_spatialdata_plot_draws_the_predicted_gene(store, tmp_path):
    pytest.importorskip("spatialdata_plot")
    sdata = read_zarr(store)
    figure, axes = plt.subplots(figsize=(5, 5), dpi=100)
    (
        sdata.pl.render_images("P1_S1_image")
        .pl.render_shapes("spots", color=GENE, table_name=KEY)
        .pl.show(coordinate_systems="microns", ax=axes, colorbar=False)
    )
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
    centers = axes.transData.transform(shapely.get_coordinates(sdata.shapes["spots"].geometry))
    plt.close(figure)
    drawn = np.array([pixels[len(pixels) - 1 - int(y), int(x)] for x, y in centers]).astype(int)
    values = sdata.tables[KEY][:, GENE].X.ravel()
    wanted = mpl.colormaps["viridis"](values / values.max(), bytes=True)[:, :3].astype(int)
    assert np.abs(drawn - wanted).max() < 12


@pytest.mark.filterwarnings("ignore")
def test_napari_has_the_predicted_genes_in_its_layer(store, monkeypatch):
    monkeypatch.setenv("QT_QPA_PLATFORM", "offscreen")
    napari = pytest.importorskip("napari_spatialdata")
    import time

    from qtpy.QtWidgets import QApplication

    sdata = read_zarr(store)
    app = napari.Interactive(sdata, headless=True)
    for n, element in enumerate(("P1_S1_image", "spots")):
        app.add_element(element, "global")  # in a thread
        end = time.monotonic() + 60
        while len(app._viewer.layers) <= n and time.monotonic() < end:
            QApplication.processEvents()
            time.sleep(0.02)
    layer = app.get_layer("spots")
    assert len(layer.data) == len(sdata.shapes["spots"])
    assert KEY in layer.metadata["table_names"]
    first = layer.metadata["table_names"][0]
    assert list(layer.metadata["adata"].var_names) == list(sdata.tables[first].var_names)


@pytest.fixture
def configuration(predicted, tmp_path, monkeypatch):
    """The configuration of Vitessce that the page makes, in a folder with the store that the page writes."""
    pytest.importorskip("vitessce")
    from spatialdata._io.format import SpatialDataContainerFormatV01

    monkeypatch.chdir(tmp_path)
    predicted.write("vitessce.zarr", sdata_formats=SpatialDataContainerFormatV01())
    [code] = [
        each for each in re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S) if "VitessceConfig" in each
    ]
    exec(compile(code, str(PAGE), "exec"), {})
    return json.loads((tmp_path / "vitessce.json").read_text())


@pytest.mark.filterwarnings("ignore")
def test_the_configuration_of_vitessce_names_what_is_in_the_store(configuration, tmp_path):
    from vitessce import VitessceConfig

    assert VitessceConfig.from_dict(configuration).to_dict() == configuration
    [file] = configuration["datasets"][0]["files"]
    store = tmp_path / file["url"].removeprefix("http://localhost:8000/")
    paths = re.findall(r'"(?:path|tablePath)": "(.*?)"', json.dumps(file["options"]))
    assert len(paths) == 4
    for path in paths:
        assert (store / path / ".zarray").is_file() or (store / path / ".zattrs").is_file(), path
    assert GENE in read_zarr(store).tables[KEY].var_names
    chosen = configuration["coordinationSpace"]["featureSelection"]
    assert list(chosen.values()) == [[GENE]]
