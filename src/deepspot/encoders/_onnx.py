"""Run a network in ONNX Runtime on a CPU, which is faster and equals torch up to rounding."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deepspot.errors import InputError

# Tolerance for the order of summation, relative to the largest value. A wrong graph differs by far more.
ROUNDING = 1e-3
# More than one example, so that the batch size is exported as variable. The check uses another batch size.
EXAMPLES, COMPARED = 2, 3


class OnnxNetwork:
    """A method of a module that maps pixels (n, 3, px, px) in float32 to one or several arrays (n, ...), on a CPU.

    The output for some of `pixels` (at least one tile) is compared with torch. Raises ValueError if the outputs differ
    or the network cannot be exported.
    """

    def __init__(self, module: nn.Module, method: str, pixels: Tensor, name: str) -> None:
        network = _Method(module, method).eval()
        self.session = _session(network, torch.rand(EXAMPLES, *pixels.shape[1:]), name)
        # One tile of the slide, the same tile flipped, and random tiles.
        tiles = torch.cat([pixels[:1], pixels[:1].flip(2), torch.rand(COMPARED - 2, *pixels.shape[1:])])
        with torch.no_grad():
            pairs = list(zip(_as_tuple(network(tiles)), _as_tuple(self(tiles)), strict=True))
        errors = [float((a - b).abs().max() / a.abs().max().clamp(min=1e-6)) for a, b in pairs]
        if not all(error < ROUNDING for error in errors):  # also catches NaN
            raise InputError(
                f"The network of encoder {name!r} differs in ONNX Runtime from torch by {max(errors):.2g} of its "
                "largest value. Set `ds.settings.runtime = 'torch'`."
            )

    def __call__(self, pixels: Tensor) -> Any:
        """Return the output for pixels (n, 3, px, px)."""
        inputs = {self.session.get_inputs()[0].name: pixels.numpy(force=True)}
        outputs = [torch.from_numpy(np.asarray(array)) for array in self.session.run(None, inputs)]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)


class _Method(nn.Module):
    """Module whose forward calls a method of another module."""

    def __init__(self, module: nn.Module, method: str) -> None:
        super().__init__()
        self.module, self.method = module, method

    def forward(self, pixels: Tensor) -> Any:
        return getattr(self.module, self.method)(pixels)


def _as_tuple(output: Any) -> tuple[Tensor, ...]:
    return output if isinstance(output, tuple) else (output,)


def _session(network: nn.Module, example: Tensor, name: str) -> Any:
    import onnxruntime

    onnxruntime.disable_telemetry_events()  # enabled in builds for Windows
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    sizes = ({0: torch.export.Dim.DYNAMIC},)
    try:
        # Tensors of inference mode cannot be traced.
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network, (example.clone(),), dynamo=True, verbose=False, dynamic_shapes=sizes
            )
        # Via a file, because weights may exceed the limit of a protobuf message.
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            path = Path(folder) / "network.onnx"
            program.save(path, external_data=True)
            return onnxruntime.InferenceSession(path, sess_options=options, providers=["CPUExecutionProvider"])

    except Exception as error:  # torch and ONNX Runtime raise many types; the first is named
        raise InputError(
            f"The network of encoder {name!r} cannot be exported to ONNX Runtime ({_cause(error)}). Set "
            "`ds.settings.runtime = 'torch'`."
        ) from error


def _cause(error: BaseException) -> str:
    """Return the first error of a chain in one line. Later ones only name the failing step."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next(iter(str(error).strip().splitlines()), "")
    return f"{type(error).__name__}: {first}".removesuffix(": ")
