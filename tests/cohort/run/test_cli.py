import pandas as pd
import pytest

import deepspot as ds
from deepspot import cli, encoders


@pytest.fixture
def known(encoder, monkeypatch):
    """Register the cheap encoder."""
    real = encoders.get
    monkeypatch.setattr(encoders, "get", lambda name=None: encoder if name in ("mean_color", encoder) else real(name))


@pytest.fixture
def arguments(known, model, files, tmp_path):
    model.save(tmp_path / "bundle")
    rows = pd.DataFrame({"path": [str(files / f"{name}.tiff") for name in ("P1_S1", "white")], "patient": ["P1", "P2"]})
    rows.to_csv(tmp_path / "manifest.csv", index=False)
    return [
        "cohort",
        str(tmp_path / "manifest.csv"),
        "--out",
        str(tmp_path / "out"),
        "--model",
        str(tmp_path / "bundle"),
    ]


def test_cohort(arguments, tmp_path, capsys):
    assert cli.main(arguments) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"1 of 2 slides are done. See {tmp_path / 'out' / 'runs.csv'}." in said
    assert "white: failed: InputError: Image 'white_image' shows no tissue" in said
    assert f"Mean expression of each slide: {tmp_path / 'out' / 'pseudobulk.h5ad'}." in said
    assert f"deepspot report {tmp_path / 'out'} --out out.html" in said
    rows = pd.read_csv(tmp_path / "manifest.csv")[:1]
    rows.to_csv(tmp_path / "manifest.csv", index=False)
    assert cli.main(arguments) == 0


def test_options_are_passed(arguments, monkeypatch, tmp_path):
    seen = {}

    def cohort(manifest, model, out, **options):
        seen.update(options, manifest=manifest.name, model=model, out=out, runtime=ds.settings.runtime)
        return pd.DataFrame({"status": ["done"], "ood_share": [0.1], "spots": [90]})

    monkeypatch.setattr(ds.cohort, "run", cohort)
    monkeypatch.setattr(ds.settings, "runtime", "torch")
    options = (
        "--scheduler tcp://here:1 --sections top --diameter-um 60 --pitch-um 120 --layout hexagonal --tissue all "
        "--artifacts flag --rounded --device cpu --runtime onnx --batch-size 8 --overwrite"
    )
    assert cli.main([*arguments, *options.split()]) == 0
    assert seen == {
        "client": "tcp://here:1",
        "sections": "top",
        "diameter_um": 60.0,
        "pitch_um": 120.0,
        "layout": "hexagonal",
        "tissue": None,
        "artifacts": "flag",
        "rounded": True,
        "device": "cpu",
        "batch_size": 8,
        "overwrite": True,
        "manifest": "manifest.csv",
        "model": str(tmp_path / "bundle"),
        "out": tmp_path / "out",
        "runtime": "onnx",
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["nowhere.csv"], "no manifest 'nowhere.csv'"),
        (["MANIFEST", "--model", "nowhere"], "no model 'nowhere'"),
        (["MANIFEST", "--diameter-um", "-1"], "`--diameter-um` must be above 0"),
    ],
)
def test_errors_are_one_line(change, message, arguments, tmp_path, capsys):
    change = [str(tmp_path / "manifest.csv") if text == "MANIFEST" else text for text in change]
    assert cli.main(["cohort", change[0], *arguments[2:], *change[1:]]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("deepspot: ")]
    assert message in line


def test_workers_must_be_a_number(arguments, capsys):
    with pytest.raises(SystemExit):
        cli.main([*arguments, "--workers", "0"])
    assert "must be a whole number of at least 1, got '0'" in capsys.readouterr().err


def test_interrupt_has_no_traceback(arguments, monkeypatch, capsys):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(ds.cohort, "run", interrupted)
    assert cli.main(arguments) == 130
    assert capsys.readouterr().err.endswith("deepspot: interrupted\n")
