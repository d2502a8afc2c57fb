"""A network as ONNX Runtime computes it on a CPU: the numbers of torch to rounding, in less time."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepspot.errors import InputError

# Of two runtimes that add up in another order, relative to the largest number; a wrong graph is off by far more.
ROUNDING = 1e-3
# Of one tile, a translation would not know that their number can change; it is compared on another number of them.
EXAMPLES, COMPARED = 2, 3


class OnnxNetwork:
    """A method of a module, from pixels (n, 3, px, px) in float32 to one array or several (n, ...), on a CPU.

    What it makes of some of these `pixels`, at least one tile, is compared with what torch does: ValueError if that is
    something else, or if the network cannot be translated.
    """

    def __init__(self, module: nn.Module, method: str, pixels: Tensor, name: str) -> None:
        network = _Method(module, method).eval()
        self.session = _session(network, torch.rand(EXAMPLES, *pixels.shape[1:]), name)
        # Tiles that differ: one of the slide, that one upside down, and others.
        known = torch.cat([pixels[:1], pixels[:1].flip(2), torch.rand(COMPARED - 2, *pixels.shape[1:])])
        with torch.no_grad():
            pairs = list(zip(_several(network(known)), _several(self(known)), strict=True))
        off = [float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs]
        if not all(each < ROUNDING for each in off):  # nor what is no number
            raise InputError(
                f"In ONNX Runtime the network of encoder {name!r} gives something else than in torch: {max(off):.2g} "
                "of its largest number. Set `ds.settings.runtime = 'torch'`."
            )

    def __call__(self, pixels: Tensor) -> Any:
        """Compute."""
        inputs = {self.session.get_inputs()[0].name: pixels.numpy(force=True)}
        made = [torch.from_numpy(np.asarray(array)) for array in self.session.run(None, inputs)]
        return made[0] if len(made) == 1 else tuple(made)


class _Method(nn.Module):
    """A module that does what a method of another does."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, pixels: Tensor) -> Any:
        return getattr(self.module, self.method)(pixels)


def _several(made: Any) -> tuple[Tensor, ...]:
    return made if isinstance(made, tuple) else (made,)


def _session(network: nn.Module, example: Tensor, name: str) -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # of builds for Windows; nothing may leave the machine
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    try:
        # Inference mode makes tensors that cannot be traced.
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network, (example.clone(),), dynamo=True, verbose=False, dynamic_shapes=sizes
            )
        # Through a file, as weights may be more than one message of protobuf holds.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "network.onnx"
            program.save(path, external_data=True)
            return onnxruntime.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])
    # Torch has errors of its own for this, and so has ONNX Runtime; the first of them is named.
    except Exception as error:  # networks of anybody fail in any way
        raise InputError(
            f"The network of encoder {name!r} cannot be translated for ONNX Runtime ({_cause(error)}). Set "
            "`ds.settings.runtime = 'torch'`."
        ) from error


def _cause(error: BaseException) -> str:
    """The first error of a chain, in one line: later ones only say at which step it was."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}".removesuffix(": ")
