"""What calibration found, read layer by layer from its folder.

The folder holds a file a layer of the model, ``layer-000.npz``, with arrays named
``<linear layer>/<what>``, and ``manifest.json``.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from lasttoken_export.quantisation.fixed_inputs import FixedInputs
from lasttoken_export.quantisation.static_inputs import StaticInputs
from lasttoken_export.quantisation.weights import Floats

ROWS_FLOATS_ABOVE = 0.002
STATIC_FLOATS_ABOVE = 0.02
"""Mean relative squared errors of a layer's output above which it stays in floats: with a scale a
row of activations (ONNX Runtime) and with one for all (TensorRT); see docs/precisions.md."""
MANIFEST = "manifest.json"
BLOCKS, ROWS = "gptq-4", "int8-rows-7"
STATIC = {"int8": "int8-static-4", "fp8": "fp8-static-3"}
"""Schemes: weights in blocks; int8 with a scale a row of the inputs, or one for all where that will
do; int8 and fp8 with one scale for all, on TensorRT. A change of the arithmetic or of its constants
changes the name: a calibration that is kept is found by it."""


def scheme_of(precision: str, target: str) -> str:
    """Return the scheme of a calibrated precision on a target."""
    if precision == "int4":
        return BLOCKS
    if precision == "int8" and target == "onnxruntime":
        return ROWS
    return STATIC[precision]


class Calibration:
    """A finished calibration.

    Args:
        folder: Of `calibrate`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text("utf-8"))
        self._layers: dict[str, int] = self.manifest["linears"]
        self._kind = "fp8" if self.manifest["scheme"] == STATIC["fp8"] else "int8"
        self._load = lru_cache(maxsize=1)(self._load_uncached)

    def factors(self, linear: str) -> Floats:
        """Return what a linear layer's inputs are divided by: ``[in]``."""
        return self._array(linear, "factors")

    def rotation(self, linear: str) -> int | None:
        """Return the block in which its inputs are rotated, or None."""
        return int(self._array(linear, "rotation")) or None

    def is_smoothed(self, linear: str) -> bool:
        """Whether any factor is not 1."""
        return bool((self.factors(linear) != 1).any())

    def needs_floats(self, linear: str) -> bool:
        """Whether int8 or fp8 would cost this layer too much."""
        return bool(self._array(linear, "floats"))

    def is_wide(self, linear: str) -> bool:
        """Whether its inputs are rounded to int8 twice, on ONNX Runtime's CPU."""
        return bool(self._array(linear, "wide"))

    def channel_codes(self, linear: str) -> NDArray[Any]:
        """Return the codes of its changed weights: ``[in, out]``, int8 or float8 E4M3."""
        codes = self._array(linear, f"{self._kind}_codes")
        return codes.view(ml_dtypes.float8_e4m3fn) if self._kind == "fp8" else codes

    def channel_scales(self, linear: str) -> Floats:
        """Return the scales of these codes: ``[out]``."""
        return self._array(linear, f"{self._kind}_scales")

    def channel_bias(self, linear: str) -> Floats:
        """Return what one scale for all inputs adds to the outputs, without biases: ``[out]``."""
        return self._array(linear, f"{self._kind}_bias")

    def static_inputs(self, linear: str) -> StaticInputs:
        """Return how its inputs become codes on TensorRT."""
        scale = float(self._array(linear, "input_scale"))
        offset = self._array(linear, "offset") if self._has(linear, "offset") else None
        return StaticInputs(kind=self._kind, scale=scale, offset=offset)

    def fixed_inputs(self, linear: str) -> FixedInputs | None:
        """Return how its inputs become codes on ONNX Runtime's CPU; None for a scale a row."""
        if not self._has(linear, "fixed"):
            return None
        scale, zero_point = map(float, self._array(linear, "fixed"))
        offset = self._array(linear, "offset") if self._has(linear, "offset") else None
        return FixedInputs(scale=scale, zero_point=int(zero_point), offset=offset)

    def int4_codes(self, linear: str) -> NDArray[np.int8]:
        """Return its weights' codes: ``[in, out]``, -8 to 7."""
        return unpack_int4(self._array(linear, "int4_codes"))

    def int4_scales(self, linear: str) -> Floats:
        """Return the scales of its weights' blocks: ``[in / block, out]``."""
        return self._array(linear, "int4_scales")

    def for_card(self) -> dict[str, Any]:
        """Return what a model card says of it."""
        return {name: value for name, value in self.manifest.items() if name != "linears"}

    def _array(self, linear: str, what: str) -> NDArray[Any]:
        array: NDArray[Any] = self._load(self._layers[linear])[f"{linear}/{what}"]
        return array

    def _has(self, linear: str, what: str) -> bool:
        return f"{linear}/{what}" in self._load(self._layers[linear])

    def _load_uncached(self, layer: int) -> Any:
        return np.load(layer_file(self.folder, layer))


def layer_file(folder: Path, layer: int) -> Path:
    """Return the path of a layer's file."""
    return folder / f"layer-{layer:03}.npz"


def pack_int4(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack codes from -8 to 7, ``[in, out]`` with an even ``in``, two a byte."""
    nibbles: NDArray[np.uint8] = codes.view(np.uint8) & np.uint8(0xF)
    packed: NDArray[np.uint8] = nibbles[0::2] | (nibbles[1::2] << np.uint8(4))
    return packed


def unpack_int4(packed: NDArray[np.uint8]) -> NDArray[np.int8]:
    """Undo `pack_int4`."""
    codes = np.empty((2 * packed.shape[0], packed.shape[1]), np.uint8)
    codes[0::2], codes[1::2] = packed & 0xF, packed >> 4
    return (codes.astype(np.int8) ^ 8) - 8
