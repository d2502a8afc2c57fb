"""Whatever lies in a checkpoint, nothing of it runs."""

import collections
import os
import pickle
import struct
import sys
import time

import numpy as np
import pytest
import torch
from sklearn.preprocessing import MinMaxScaler

import deepspot as ds
from deepspot.models._legacy.pickle_reader import Node, Refused, describe

from .conftest import FILES, rewrite


class RecordsUnpickling:
    """Pickled as a call of `function` with `args`."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def with_pickle(data):
    return lambda entries: {name: data if name.endswith("data.pkl") else old for name, old in entries.items()}


@pytest.mark.parametrize(
    ("asks", "named"),
    [
        (RecordsUnpickling(os.system, "echo ran"), r"(posix|nt)\.system"),
        (RecordsUnpickling(eval, "1 + 1"), r"builtins\.eval"),
        (
            RecordsUnpickling(getattr, RecordsUnpickling(collections.OrderedDict), "popitem"),
            r"getattr\(Node, 'popitem'\)",
        ),
        (RecordsUnpickling(getattr, "text", "_forward_spot"), r"getattr\('text', '_forward_spot'\)"),
        (RecordsUnpickling(pickle.loads, b""), r"pickle\.loads"),
        (RecordsUnpickling(torch.load, "other.pt"), r"torch\.serialization\.load"),
        (RecordsUnpickling(np.load, "other.npy"), r"numpy\.load"),
        (RecordsUnpickling(__import__, "antigravity"), r"builtins\.__import__"),
        (RecordsUnpickling(torch.nn.Linear, 3, 4), r"Linear\(\.\.\.\)"),
        (collections.Counter("abc"), r"collections\.Counter"),
    ],
)
def test_unknown_name_is_refused(folder, asks, named, capfd):
    rewrite(folder, with_pickle(pickle.dumps({"hidden": [asks]}, protocol=2)))
    with pytest.raises(ValueError, match=f"{named}.*No code in it was run"):
        ds.models.convert_legacy(folder)
    assert "ran" not in capfd.readouterr().out


def test_hidden_call_is_refused(authors, publish, capfd):
    network = authors.DeepSpot()
    network.training_loss = RecordsUnpickling(os.system, "echo ran")
    folder = publish(network)
    with pytest.raises(ValueError, match=r"system.*No code in it was run"):
        ds.models.convert_legacy(folder)
    assert "ran" not in capfd.readouterr().out


def test_deepspot2cell_and_other_scalers_are_refused_by_name(authors, publish, monkeypatch):
    monkeypatch.setattr(authors.DeepCell, "__module__", "deepspot.deepspot2cell.model")
    monkeypatch.setitem(sys.modules, "deepspot.deepspot2cell.model", sys.modules["deepspot.cell.model"])
    with pytest.raises(ValueError, match=r"checkpoint of DeepSpot2Cell \(deepspot\.deepspot2cell\.model\.DeepCell\)"):
        ds.models.convert_legacy(publish(authors.DeepCell()))
    scaler = MinMaxScaler().fit(np.eye(6))
    with pytest.raises(ValueError, match=r"MinMaxScaler\. Only a StandardScaler"):
        ds.models.convert_legacy(publish(authors.DeepSpot(scaler=scaler)))


@pytest.mark.parametrize("thing", [{"a": torch.zeros(2)}, torch.nn.Linear(2, 3), [1, 2]])
def test_other_pytorch_files_are_refused(folder, thing):
    torch.save(thing, folder / FILES[0])
    with pytest.raises(ValueError, match="not the network, which"):
        ds.models.convert_legacy(folder)


def test_other_pickles_than_pytorchs_are_refused(folder):
    rewrite(folder, with_pickle(pickle.dumps({"a": frozenset([1])}, protocol=4)))
    with pytest.raises(ValueError, match="instruction FRAME"):
        ds.models.convert_legacy(folder)
    (folder / FILES[0]).write_bytes(pickle.dumps(RecordsUnpickling(os.system, "exit"), protocol=2))
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        ds.models.convert_legacy(folder)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b".",
        b"\x80\x02",
        b"\x80\x02}}.",  # two values
        b"\x80\x02h\x05.",  # nothing under this number
        b"\x80\x02u.",  # no mark
        b"\x80\x02(K\x01.",  # a mark that nothing takes
        b"\x80\x02K\x01a.",  # appended to nothing
        b"\x80\x02]K\x01K\x02s.",  # a key of a list
        b"\x80\x02}}b.",  # a state of a dictionary
        b"\x80\x02X\xff\xff\xff\x7f.",  # longer than the file
    ],
)
def test_damaged_pickles_are_refused(data):
    with pytest.raises(Refused, match="contains no readable pickle"):
        describe(data)


DOUBLED = b")" + b"q\x00h\x00\x86" * 60  # a tuple of twice a tuple of twice …
COLLIDING = b"".join(b"\x8a\x0a" + (n * (2**61 - 1)).to_bytes(10, "little") + b"N" for n in range(1, 20_000))
PLACE = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n%bX\x03\x00\x00\x00cpuK\x01tQ"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"}" + DOUBLED + b"K\x01s.", "a key is not text"),
        (DOUBLED + b")R.", "called that is not a function"),
        (PLACE % DOUBLED + b".", "storage of a tensor, not the network"),
        (b"c__builtin__\ngetattr\n" + DOUBLED + b"X\x01\x00\x00\x00a\x86R.", r"getattr\(tuple"),
        (b"}(" + COLLIDING + b"u.", "a key is not text"),
        (b"})" + b"\x85" * 100_000 + b"K\x01s.", "a key is not text"),
        (b"(" + b"N" * 600_000 + b"t.", "more than 500,000 instructions"),
        (
            b"(c__builtin__\nset\nq\x01](" + b"K\x01" * 20_000 + b"eq\x02(" + b"h\x01h\x02\x85R" * 20_000 + b"tt.",
            "a tuple",
        ),
        # Python's own reader makes room for as many values as this number says.
        (b"}r" + struct.pack("<I", 2**32 - 1) + b".", "a dict, not the network"),
    ],
)
def test_malicious_pickles_are_refused_quickly(folder, data, message):
    rewrite(folder, with_pickle(b"\x80\x02" + data))
    start = time.monotonic()
    with pytest.raises(ValueError, match=message) as refused:
        ds.models.convert_legacy(folder)
    assert time.monotonic() - start < 20
    assert str(folder) in str(refused.value)


def test_calls_are_recorded_not_executed():
    (made,) = describe(pickle.dumps([collections.OrderedDict(a=1)], protocol=2))
    assert isinstance(made, Node)
    assert (made.of, made.args, made.items) == ("collections.OrderedDict", (), {"a": 1})


def test_text_that_python_warns_of_is_refused_without_a_warning():
    with pytest.raises(Refused, match="instruction STRING"):
        describe(b"\x80\x02S'\\l'\n.")


def doubled(times):
    """A tuple of twice a tuple of twice …, which takes forever to write out."""
    value = ("x",)
    for _ in range(times):
        value = (value, value)
    return value


@pytest.mark.parametrize("name", ["loss_func", "random_seed"])
def test_hyper_parameters_that_explode_are_not_written_out(authors, publish, name):
    network = authors.DeepSpot()
    network._hparams[name] = doubled(60)
    assert len(ds.models.convert_legacy(publish(network)).card.note) < 300


@pytest.mark.parametrize("name", ["spot_context", "input_size", "output_size"])
def test_nested_hyperparameters_are_dropped(authors, publish, name):
    network = authors.DeepSpot()
    network._hparams[name] = doubled(60)
    with pytest.raises(ValueError, match=r"is inconsistent"):
        ds.models.convert_legacy(publish(network))


def test_a_forward_function_of_another_kind_is_ignored(authors, publish):
    network = authors.DeepSpot()
    network._forward_fn = collections.OrderedDict()
    assert ds.models.convert_legacy(publish(network)).card.genes


def test_one_member_that_is_there_a_thousand_times_is_refused(authors, publish):
    network = authors.DeepSpot()
    network.phi_spot._modules = dict.fromkeys(map(str, range(1000)), network.phi_spot[0])
    with pytest.raises(ValueError, match=r"ensemble of 1,000"):
        ds.models.convert_legacy(publish(network))
