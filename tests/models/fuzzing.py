"""Mutated bundles, and a watch over loading them, for tests and `benchmarks/fuzz.py`."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from mutations import CARD, WEIGHTS, fields, header, numbers, scrambled, sealed
from scipy.sparse import csr_matrix

import deepspot as ds
from deepspot._spatial.geometry import Geometry, NeighborRule, TileGeometry
from deepspot.models._confidence.ood import OODDetector
from deepspot.models._inputs import Scaler
from deepspot.models._registry import read_model

GENES, DIM, SECONDS = 4, 6, 5.0
GAINS = ("r_ridge", "r_network", "r_used", "gain", "low", "high", "blend_gain", "blend_low", "blend_high")
Load = Callable[[Path], None]
Family = Callable[[random.Random], tuple[Path, Load]]


def tiny_model() -> ds.models.DeepSpot:
    """Return a small model with all parts of a bundle, without training."""
    from deepspot.models._network.network import Network

    rng = np.random.default_rng(0)
    model = ds.models.DeepSpot(network={"width": 3, "n_phi": 2, "members": 2}, seed=0, device="cpu")
    torch.manual_seed(0)
    model.members = [Network(model.network, DIM, GENES).eval() for _ in range(2)]
    model.ridge = ds.models.Ridge()
    model.ridge.coef = rng.normal(size=(3 * DIM, GENES)).astype(np.float32)
    model.ridge.intercept = np.zeros(GENES, np.float32)
    model.scaler = model.ridge.scaler = Scaler(np.ones(GENES, np.float32), np.ones(GENES, np.float32))
    model.ridge.scaler = Scaler(np.zeros(GENES, np.float32), np.ones(GENES, np.float32))
    core = rng.normal(size=(5, DIM)).astype(np.float32)
    model.ood = OODDetector(core / np.linalg.norm(core, axis=1, keepdims=True), np.array([0.1], np.float32))
    model.card = ds.models.ModelCard(
        name="tiny",
        genes=list("ABCD"),
        dim=DIM,
        network=model.network,
        training=model.training,
        preset="default",
        seed=0,
        license="MIT",
        tissue="toy",
        slides=[{"slide": "S1", "patient": "P1", "spots": 10}],
        geometry=Geometry(tile=TileGeometry(tile_um=55, input_px=32), neighbors=NeighborRule(reach=150)),
        encoder=ds.encoders.EncoderCard(name="toy", dim=DIM, input_px=32),
        encoder_fingerprint="1",
        gate=dict.fromkeys(GAINS, 0.1) | {"unit": "patients", "n": 2, "weight": 0.5, "verdict": "blend"},
        reliability=dict.fromkeys(["r", "r_low", "r_high"], (0.5, 0.25, None, 0.1))
        | {"unit": "patients", "n": 2, "why_no_interval": "too few"},
        versions={"deepspot": "0.1.0"},
    )
    return model


class Tamper:
    """Families of mutated bundles; every case is written to the same folder."""

    def __init__(self, folder: Path) -> None:
        whole = folder / "whole"
        tiny_model().save(whole)
        self.card, self.weights = (whole / CARD).read_bytes(), (whole / WEIGHTS).read_bytes()
        self.folder = folder / "case"
        self.folder.mkdir()
        rng = np.random.default_rng(1)
        spot = rng.normal(size=(3, DIM)).astype(np.float32)
        near = csr_matrix(np.array([[0, 1, 1], [1, 0, 0], [0, 0, 0]], dtype=bool))
        self.bags = ds.models.Bags(spot, rng.normal(size=(3, 9, DIM)).astype(np.float32), near)
        self.load(whole)  # imports before the watch starts

    def families(self) -> dict[str, Family]:
        """Return the families by name."""
        return {
            "card: bytes": lambda rng: self._folder(scrambled(self.card, rng), self.weights),
            "card: fields": lambda rng: self._folder(self._fields(rng), self.weights),
            "card: fields, sealed again": lambda rng: self._folder(*sealed(self._fields(rng), self.weights)),
            "weights: bytes": lambda rng: self._folder(self.card, scrambled(self.weights, rng)),
            "weights: bytes, sealed again": lambda rng: self._folder(*sealed(self.card, scrambled(self.weights, rng))),
            "weights: numbers, sealed again": lambda rng: self._folder(*sealed(self.card, numbers(self.weights, rng))),
            "weights: header, sealed again": lambda rng: self._folder(*sealed(self.card, header(self.weights, rng))),
            "both: fields and numbers, sealed again": lambda rng: self._folder(
                *sealed(self._fields(rng), numbers(self.weights, rng))
            ),
        }

    def load(self, path: Path) -> None:
        """Load a bundle, and raise AssertionError if the model is not valid."""
        model = read_model(path, device="cpu")
        weights = (path / WEIGHTS).read_bytes()
        assert hashlib.sha256(weights).hexdigest() == model.card.sha256, "the checksum is not that of the weights"
        bags = self.bags
        if bags.dim != model.card.dim:
            bags = ds.models.Bags(
                *(np.ones((3, *more, model.card.dim), np.float32) for more in ((), (9,))), bags.neighbors
            )
        assert np.isfinite(model.predict(bags)).all(), "a prediction is not finite"
        assert np.isfinite(model.ood_score(bags.spot)).all() or not model.ood.known, "a score is not finite"
        assert repr(model)
        assert "\n---\n" in model.card.to_markdown(), "no page"

    def _fields(self, rng: random.Random) -> bytes:
        return fields(json.loads(self.card), rng)

    def _folder(self, card: bytes, weights: bytes) -> tuple[Path, Load]:
        (self.folder / CARD).write_bytes(card)
        (self.folder / WEIGHTS).write_bytes(weights)
        return self.folder, self.load


class TooLong(BaseException):
    """A case exceeded the time limit."""


class Watch:
    """Audit hook that reports the outcome of loading and forbidden actions meanwhile."""

    FORBIDDEN = ("exec", "compile", "import", "code.__new__", "function.__new__", "ctypes.dlopen", "pickle.")
    FORBIDDEN += (
        "marshal.",
        "os.",
        "subprocess.",
        "shutil.",
        "tempfile.",
        "socket.",
        "webbrowser.",
        "urllib.",
        "http.",
    )
    HARMLESS = ("os.listdir", "os.scandir")

    def __init__(self) -> None:
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def outcome(self, path: Path, load: Load) -> str:
        """Return ``"loads"``, the name of an expected error, or ``"FINDING …"``."""
        self.seen = []
        try:
            with self._limited():
                load(path)
            told = "loads"
        except (ValueError, FileNotFoundError) as error:
            # Only these exact types are expected.
            kind = {ds.errors.InputError: "ValueError", FileNotFoundError: "FileNotFoundError"}.get(type(error))
            told = kind if kind is not None and str(path) in str(error) else f"FINDING {type(error).__name__}: {error}"
        except (Exception, TooLong) as error:  # noqa: BLE001
            told = f"FINDING {type(error).__name__}: {error}"
        return f"FINDING {self.seen[:3]}" if self.seen else told

    @contextmanager
    def _limited(self):
        before = signal.signal(signal.SIGALRM, self._stop)
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        self.on = True
        try:
            yield
        finally:
            self.on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    @staticmethod
    def _stop(*_):
        raise TooLong(f"more than {SECONDS} s")

    def _hook(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event == "open" and (set(arguments[1] or "") & set("wax+") or arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            self.seen.append(f"open {arguments[0]!r} for writing")
        elif event.startswith(self.FORBIDDEN) and event not in self.HARMLESS:
            self.seen.append(f"{event} {str(arguments)[:100]}")
