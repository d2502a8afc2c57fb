import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import spatialdata

import deepspot as ds
from deepspot import cli, encoders
from deepspot._spatial.transforms import microns_per_pixel
from deepspot._stats import oversample
from deepspot._workflow.run import run_report
from deepspot._workflow.steps import choose_groups, find_gene_sets, predict, read_slide

# anndata writes scanpy's record arrays in a way that zarr warns of; the command line keeps that to itself.
pytestmark = pytest.mark.filterwarnings("ignore:The data type")


@pytest.fixture(scope="module")
def trained(toy, mean_color):
    slide = spatialdata.deepcopy(toy["P2_S1"])
    genes = list(slide.tables["table"].var_names[:12])
    options = {"network": {"width": 16, "members": 1}, "training": {"epochs": 3, "gate": "record"}, "seed": 0}
    return ds.models.train({"P2_S1": slide}, genes=genes, encoder=mean_color(), **options)


def add_sides(slide):
    x = slide.tables["table"].obsm["spatial"][:, 0]
    slide.tables["table"].obs["side"] = pd.Categorical(np.where(x < np.median(x), "left", "right"))


@pytest.fixture(scope="module")
def written(trained, toy, tmp_path_factory):
    """A folder with a slide, a model of another slide, and files with gene sets and pathways. Read-only."""
    folder, slide = tmp_path_factory.mktemp("written"), spatialdata.deepcopy(toy["P1_S1"])
    trained.save(folder / "model")
    add_sides(slide)
    slide.write(folder / "slide.zarr")
    genes = trained.card.genes
    (folder / "sets.gmt").write_text(
        "\n".join(["\t".join(["SET_A", "", *genes[:6]]), "\t".join(["SET_B", "", *genes])])
    )
    net = pd.DataFrame({"source": ["P", "Q"] * 6, "target": genes, "weight": np.linspace(-1, 2, 12)})
    net.to_csv(folder / "net.csv", index=False)
    return folder


@pytest.fixture
def given(trained, written, slide, cheap_encoder, tmp_path, monkeypatch):
    """Arguments of `run_report` on a copy of these files; `slide` is the same slide in memory."""
    real = encoders.get
    monkeypatch.setattr(
        encoders,
        "get",
        lambda encoder=None: cheap_encoder if encoder in ("mean_color", cheap_encoder) else real(encoder),
    )
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    add_sides(slide)
    return {
        "slide": tmp_path / "slide.zarr",
        "out": tmp_path / "report.html",
        "model": str(tmp_path / "model"),
        "groupby": "side",
        "gene_sets": str(tmp_path / "sets.gmt"),
        "net": tmp_path / "net.csv",
        "genes": trained.card.genes[:1],
    }


def run(given, **changes):
    return run_report(**given | changes)


def files(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_runs_all_steps_and_does_not_change_the_slide(given, tmp_path, monkeypatch, log):
    def planted(sdata, groupby, **options):
        # So few spots have no markers: say that the first genes are some.
        real(sdata, groupby, **options)
        found = sdata.tables[options["table_key"]].uns["markers"]
        found.loc[found["rank"] <= 3, ["significant", "logfoldchange"]] = [True, 1.0]

    real = ds.tl.markers
    monkeypatch.setattr(ds.tl, "markers", planted)
    before = files(given["slide"])
    command = "report {slide} --out {out} --model {model} --groupby side --gene-sets {gene_sets} --net {net}"
    arguments = command.format(**given).split()
    arguments += ["--genes", ",".join(given["genes"]), "--save", str(tmp_path / "saved.zarr")]
    assert cli.main(arguments) == 0
    assert files(given["slide"]) == before
    assert [sum(str(path) in line for line in log) for path in (given["out"], tmp_path / "saved.zarr")] == [1, 1]
    page = given["out"].read_text()
    for said in ("the column “side”", "gene set", "Pathways", "of measured spots and image: ", "deepspot report"):
        assert said in page
    assert "Missing parts" in page
    assert "ds.tl.enrich" not in page
    table = spatialdata.read_zarr(tmp_path / "saved.zarr").tables["deepspot_spots"]
    assert {"markers", "enrichment", "deepspot_pathways"} <= set(table.uns)
    assert {"P", "Q"} & set(table.obsm["score_mlm"])
    assert list(table.obs["side"].cat.categories) == ["left", "right"]


def test_existing_results_are_reused(given, tmp_path, log, monkeypatch):
    run(given, save=tmp_path / "saved.zarr")
    before = files(tmp_path / "saved.zarr")
    for name in ("predict", "markers", "pathways"):
        monkeypatch.setattr(ds.tl, name, None)
    log.clear()
    run(given, slide=tmp_path / "saved.zarr", gene_sets=None, net=None, overwrite=True)
    assert sum(message.startswith("Using") for message in log) >= 3
    assert files(tmp_path / "saved.zarr") == before


def test_view_predicts_a_slide_and_shows_it(given, tmp_path, capsys, log):
    before = files(given["slide"])
    out = tmp_path / "view.html"
    command = ["view", str(given["slide"]), "--out", str(out), "--model", given["model"], "--groupby", "side"]
    assert cli.main([*command, "--genes", given["genes"][0], "--no-folder"]) == 0
    assert sum(str(out) in line for line in log) == 1
    assert capsys.readouterr().out == ""
    page = out.read_text(encoding="utf-8")
    assert f'"genes": ["{given["genes"][0]}"]' in page
    assert all(f'"key": "{key}"' in page for key in ("measured", "predicted", "groups"))
    assert files(given["slide"]) == before
    assert cli.main([*command, "--genes", "NONE", "--overwrite"]) == 2
    assert "NONE" in capsys.readouterr().err
    assert cli.main(command) == 2
    assert "--overwrite" in capsys.readouterr().err


def test_failed_steps_are_in_the_report(given, monkeypatch, log):
    def offline(*_, **__):
        raise ConnectionError("cannot be had offline: pass `net=`")

    monkeypatch.setattr(ds.tl, "pathways", offline)
    monkeypatch.setattr(ds.tl, "check_alignment", offline)
    run(given, net=None)
    page = given["out"].read_text()
    assert page.count("cannot be had offline: pass <code>net=</code>") == 2
    assert any(message.startswith("Pathways: left out.") for message in log)


def test_reads_an_h5ad_with_its_image(given, slide, tmp_path, capsys):
    from PIL import Image

    pixels = slide.images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "he.png")
    table = slide.tables["table"].copy()
    table.uns = {"spatial": {"P1": {"scalefactors": {"spot_diameter_fullres": 55.0}}}}
    table.obs = table.obs.drop(columns=["region", "spot_id"], errors="ignore")
    table.write_h5ad(tmp_path / "slide.H5AD")
    given |= {"slide": tmp_path / "slide.H5AD", "image": tmp_path / "he.png", "mpp": 1.0}
    run(given)
    assert "Slide P1: genes predicted" in given["out"].read_text()
    with pytest.raises(ValueError, match="--image"):
        run(given, image=None, overwrite=True)
    command = f"report {given['slide']} --image {given['image']} --out {tmp_path / 'other.html'}"
    assert cli.main(command.split()) == 2
    assert "Pass `--mpp` (µm per full-resolution pixel) or `--pitch-um`" in " ".join(capsys.readouterr().err.split())


def test_options_of_an_h5ad(slide, tmp_path, log):
    """What the errors of `ds.io.from_anndata` ask for can be given."""
    from anndata import concat
    from PIL import Image

    Image.fromarray(slide.images["P1_S1_image"].to_numpy().transpose(1, 2, 0)).save(tmp_path / "he.png")
    table = slide.tables["table"].copy()
    table.uns, table.var["symbol"] = {}, [f"S{i}" for i in range(table.n_vars)]
    both = concat({"A": table, "B": table}, label="library_id", index_unique="-", merge="same")
    both.write_h5ad(tmp_path / "slide.h5ad")
    options = {"library_id": "B", "pitch_um": 100, "diameter_um": 55, "gene_id_key": "symbol"}
    sdata = read_slide(tmp_path / "slide.h5ad", tmp_path / "he.png", **options)
    assert sdata.tables["table"].obs_names.str.endswith("-B").all()
    assert sdata.tables["table"].var_names[0] == "S0"
    assert set(sdata.shapes["spots"]["diameter_um"]) == {55.0}


def test_the_scale_of_a_store_is_an_option(slide, tmp_path, capsys):
    from spatialdata.transformations import Identity, set_transformation

    for element in (slide.images["P1_S1_image"], slide.shapes["spots"]):
        set_transformation(element, {"global": Identity()}, set_all=True)
    del slide.shapes["spots"]["diameter_um"]
    slide.write(tmp_path / "slide.zarr")
    assert cli.main(["predict", str(tmp_path / "slide.zarr")]) == 2
    assert "Set it with `--mpp <µm per pixel>` or" in " ".join(capsys.readouterr().err.split())
    sdata = read_slide(tmp_path / "slide.zarr", mpp=0.8, diameter_um=100)
    assert microns_per_pixel(sdata, "P1_S1_image") == pytest.approx(0.8)
    assert set(sdata.shapes["spots"]["diameter_um"]) == {100.0}


@pytest.mark.parametrize("command", ["predict", "report"])
@pytest.mark.parametrize("name", ["slide.zarr", "slide.h5ad"])
def test_damaged_slides_are_named(command, name, slide, tmp_path, capsys):
    if name == "slide.h5ad":
        (tmp_path / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    else:
        slide.write(tmp_path / name)
        (tmp_path / name / "shapes" / "spots" / "shapes.parquet").write_bytes(b"nothing")
    image = ["--image", str(tmp_path / name), "--mpp", "1"] if name == "slide.h5ad" and command == "report" else []
    out = ["--out", str(tmp_path / "out.html")] if command == "report" else []
    assert cli.main([command, str(tmp_path / name), *image, *out]) == 2
    error = " ".join(capsys.readouterr().err.split())
    assert name in error
    assert "Traceback" not in error


def test_reads_a_folder_of_space_ranger_with_its_image(tmp_path, monkeypatch):
    (tmp_path / "outs" / "spatial").mkdir(parents=True)
    (tmp_path / "he.tif").write_text("")
    monkeypatch.setattr(ds.io, "visium", lambda path, **options: (path, options))
    image = tmp_path / "he.tif"
    options = {"fullres_image_file": image, "mpp": 0.5}
    assert read_slide(tmp_path / "outs", image, mpp=0.5) == (tmp_path / "outs", options)
    with pytest.raises(ValueError, match="`library_id` and `pitch_um` cannot be given for a Space Ranger folder"):
        read_slide(tmp_path / "outs", image, library_id="S1", pitch_um=100)
    with pytest.raises(ValueError, match="A Space Ranger folder has no full-resolution"):
        read_slide(tmp_path / "outs")


def test_without_a_model_an_existing_prediction_is_used(trained, slide, cheap_encoder, monkeypatch):
    ds.tl.predict(slide, trained, encoder=cheap_encoder)
    monkeypatch.setattr(ds.models, "load", None)
    assert predict(slide, None, shapes_key="spots") == ("deepspot_spots", None)
    with pytest.raises(KeyError, match="12 genes of the prediction"):
        predict(slide, None, shapes_key="spots", genes=["NO_SUCH"])
    slide.tables["other"] = slide.tables["deepspot_spots"].copy()
    with pytest.raises(ValueError, match="--model"):
        predict(slide, None, shapes_key="spots")


def test_another_model_does_not_replace_the_prediction(given, trained, slide, cheap_encoder):
    ds.tl.predict(slide, trained, encoder=cheap_encoder)
    slide.tables["deepspot_spots"].uns["deepspot"]["fingerprint"] = "other"
    key, model = predict(slide, given["model"], shapes_key="spots")
    assert key == f"deepspot_spots_{model.fingerprint}"
    assert slide.tables[key].uns["deepspot"]["fingerprint"] == trained.fingerprint
    assert "deepspot_spots" in slide.tables


def clustered(monkeypatch, labels):
    monkeypatch.setattr(oversample, "leiden", lambda latent, seed: np.asarray(labels))


def test_clusters_without_groups(trained, slide, cheap_encoder, monkeypatch):
    ds.tl.predict(slide, trained, encoder=cheap_encoder)
    clustered(monkeypatch, np.repeat([1, 0, 2], 10))
    assert choose_groups(slide, None, "deepspot_spots", "spots", {}) == "leiden"
    assert list(slide.shapes["spots"]["leiden"]) == list(np.repeat(["2", "1", "3"], 10))
    assert list(slide.tables["deepspot_spots"].obs["leiden"].cat.categories) == ["1", "2", "3"]
    slide.shapes["spots"]["annotation"] = pd.Categorical(np.repeat(["a", "b"], 15))
    assert choose_groups(slide, None, "deepspot_spots", "spots", {}) == "annotation"


def test_without_igraph_the_report_names_the_package(given, monkeypatch):
    def missing(latent, seed):
        raise ImportError('Clusters need igraph: `pip install ".[leiden]"`.')

    monkeypatch.setattr(oversample, "leiden", missing)
    run(given, groupby=None)
    assert ".[leiden]" in given["out"].read_text()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"slide": "nowhere.zarr"}, FileNotFoundError, "no slide 'nowhere.zarr'"),
        ({"gene_sets": "none.gmt"}, FileNotFoundError, "'none.gmt' \\(--gene-sets\\)"),
        ({"net": "none.csv"}, FileNotFoundError, "'none.csv' \\(--net\\)"),
        ({"image": "none.jpg"}, FileNotFoundError, "'none.jpg' \\(--image\\)"),
        ({"out": "none/report.html"}, FileNotFoundError, "no folder 'none'"),
        ({"out": "SLIDE/report.html"}, ValueError, "is inside the store"),
        ({"out": "TAKEN"}, FileExistsError, "pass `overwrite=True`"),
        ({"save": "SLIDE"}, FileExistsError, "--save"),
        ({"save": "none/x.zarr"}, FileNotFoundError, "to save to"),
        ({"model": "none"}, FileNotFoundError, "no model 'none'"),
        ({"genes": ["NO_SUCH"]}, KeyError, "'NO_SUCH'"),
        ({"groupby": "sides"}, KeyError, "'sides'"),
        ({"image": "TAKEN"}, ValueError, "cannot be given for a SpatialData, which has its image and"),
        ({"slide": "TAKEN"}, ValueError, "No reader opens"),
        ({"shapes_key": "cells"}, KeyError, "'cells'"),
    ],
)
def test_bad_input(change, error, message, given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.txt").write_text("mine")
    slide = given["slide"]
    known = {"SLIDE": slide, "TAKEN": tmp_path / "taken.txt", "SLIDE/report.html": slide / "report.html"}
    paths = {"slide", "net", "image", "out", "save"}
    change = {name: Path(known.get(value, value)) if name in paths else value for name, value in change.items()}
    with pytest.raises(error, match=message):
        run(given, **change)
    assert not given["out"].exists()
    assert not (slide / "report.html").exists()


def test_passed_gene_sets_replace_existing_ones(slide, monkeypatch):
    calls = []
    monkeypatch.setattr(ds.tl, "enrich", lambda *args, **_: calls.append(args[1]))
    slide.tables["table"].uns["enrichment"] = pd.DataFrame()
    find_gene_sets(slide, "table", None)
    assert calls == []
    find_gene_sets(slide, "table", "sets.gmt")
    assert calls == ["sets.gmt"]


def test_several_measured_tables_are_refused_first(given, slide, tmp_path):
    slide.tables["second"] = slide.tables["table"].copy()
    slide.write(tmp_path / "two.zarr")
    with pytest.raises(ValueError, match="table_key"):
        run(given, slide=tmp_path / "two.zarr")
    assert not given["out"].exists()
