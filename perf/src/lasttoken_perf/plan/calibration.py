"""Points that were measured or published, which override the roofline where they exist.

A file of them is a JSON list, or a result of ``lasttoken-perf gpu`` as it was written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lasttoken_export.errors import ExportError
from lasttoken_perf.errors import InvalidCalibration, InvalidPlan
from lasttoken_perf.plan.devices import Device, load_devices
from lasttoken_perf.plan.figure import Basis, Figure
from lasttoken_perf.plan.model_account import ModelAccount, known_models, model_account
from lasttoken_perf.plan.reported_names import device_of_reported_name
from lasttoken_perf.plan.storage import STORAGES

ENGINES = ("ONNX Runtime", "TensorRT", "TensorRT-RTX")
"""Subjects of the GPU suite that a server runs."""
_KEYS = {"gpu", "model", "precision", "tokens_per_s", "basis", "source"}
_RATES = (0.001, 1e12)
"""Least and most tokens a second of a point: wide enough for any, and no arithmetic overflows."""
_KINDS: Mapping[type, str] = {str: "text", list: "list", dict: "object"}


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationPoint:
    """Throughput of one model on one device in full batches.

    Attributes:
        gpu: Name of the device.
        model: Catalogue name; it stands for every model of the same shape.
        precision: One of `STORAGES`.
        tokens_per_s: Real tokens a second.
        basis: Measured or published.
        source: Command and result file, or page.
    """

    gpu: str
    model: str
    precision: str
    tokens_per_s: float
    basis: Basis
    source: str


def load_calibration(path: Path | None = None) -> tuple[CalibrationPoint, ...]:
    """Read calibration points: a JSON list, or a result of the GPU suite.

    Args:
        path: The file; None for the package's own points.

    Raises:
        InvalidCalibration: The file cannot be read, a point is malformed, or the result holds no
            figure of a model and a GPU that the planner knows.
    """
    shipped = resources.files("lasttoken_perf.plan") / "data" / "calibration.json"
    file = str(path or shipped)
    try:
        points = json.loads((path or shipped).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidCalibration(f"{file!r} cannot be read as JSON: {error}") from None
    if isinstance(points, dict) and points.get("kind") == "gpu":
        points = points_of_result(points, Path(file).name)
    if not isinstance(points, list):
        raise InvalidCalibration(
            f"{file!r} must hold a list of points, or be a result of lasttoken-perf gpu"
        )
    return tuple(
        _point(point, f"{file!r}, point {number}") for number, point in enumerate(points, start=1)
    )


def points_of_result(result: Mapping[str, Any], file: str) -> list[dict[str, Any]]:
    """Return the points that a result of the GPU suite holds, one a precision.

    A server's engine in full batches is what the planner plans with: the fastest of ours that was
    measured, on the corpus of even lengths where it is there, which the planner's own lengths are
    closest to.

    Args:
        result: Of ``lasttoken-perf gpu``.
        file: Its name, for the points' source.

    Raises:
        InvalidCalibration: It holds no figure of a known model on a known GPU, or is not as
            ``lasttoken-perf gpu`` writes it.
    """
    whole = repr(file)
    model = _member(_member(result, "model", dict, whole), "name", str, f"{whole}, model")
    command, taken_at = (_member(result, name, str, whole) for name in ("command", "taken_at"))
    found: dict[tuple[str, str], dict[str, Any]] = {}
    refused: dict[str, str] = {}
    for number, point in enumerate(_member(result, "summary", list, whole), start=1):
        where = f"{whole}, point {number} of summary"
        if not isinstance(point, dict):
            raise InvalidCalibration(f"{where} is {point!r}; it must be an object")
        if point.get("subject") not in ENGINES or point.get("load") != "corpus":
            continue
        reported, precision, distribution = (
            _member(point, name, str, where) for name in ("device", "precision", "distribution")
        )
        device = device_of_reported_name(reported)
        if device is None:
            refused[reported] = "no data sheet of this device"
        elif precision not in STORAGES:
            refused[precision] = "no precision that is planned for"
        elif model not in known_models():
            refused[model] = "random weights of no known model's shape; measure --shape sfr"
        else:
            even = distribution.endswith("tokens each")
            rate = _rate(_member(point, "tokens_per_s", dict, where).get("median"), where)
            known = found.get((device.name, precision))
            if known is None or (even, rate) > (known["even"], known["tokens_per_s"]):
                found[device.name, precision] = {
                    "even": even, "gpu": device.name, "model": model, "precision": precision,
                    "tokens_per_s": rate, "basis": Basis.MEASURED.value,
                    "source": f"{point['subject']} on {distribution}: {file}, {command}, "
                    f"{taken_at[:10]}",
                }  # fmt: skip
    if not found:
        reasons = "; ".join(f"{name}: {why}" for name, why in refused.items())
        raise InvalidCalibration(
            f"{file!r} holds no throughput of ours to plan with "
            f"({reasons or 'no engine was measured'})"
        )
    return [{key: point[key] for key in _KEYS} for point in found.values()]


def _member(holder: Mapping[str, Any], name: str, kind: type, where: str) -> Any:
    value = holder.get(name)
    if not isinstance(value, kind):
        raise InvalidCalibration(
            f"{where}: {name} is {value!r}, no {_KINDS[kind]}; give the file as lasttoken-perf gpu "
            "wrote it"
        )
    return value


def _rate(value: Any, where: str) -> float:
    low, high = _RATES
    # JSON's true is an int to Python.
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise InvalidCalibration(
            f"{where}: tokens_per_s is {value!r}; it must be a number from {low} to {high:g}"
        )
    return value


def _point(point: Any, where: str) -> CalibrationPoint:
    if not isinstance(point, dict) or point.keys() != _KEYS:
        raise InvalidCalibration(f"{where} is {point!r}; its keys must be {sorted(_KEYS)!r}")
    gpus = [device.name for device in load_devices()]
    bases = [Basis.MEASURED.value, Basis.PUBLISHED.value]
    for name, known in (("gpu", gpus), ("precision", list(STORAGES)), ("basis", bases)):
        if point[name] not in known:
            raise InvalidCalibration(f"{where}: {name} is {point[name]!r}; known are {known!r}")
    for name, what in (("model", "one that can be planned for"), ("source", "command or page")):
        if not isinstance(point[name], str) or not point[name]:
            raise InvalidCalibration(f"{where}: {name} is {point[name]!r}; name it: {what}")
    _rate(point["tokens_per_s"], where)
    try:
        model_account(point["model"])
    except (InvalidPlan, ExportError) as error:
        raise InvalidCalibration(f"{where}: model: {error}") from None
    return CalibrationPoint(**{**point, "basis": Basis(point["basis"])})


def calibrated_rate(
    points: tuple[CalibrationPoint, ...], model: ModelAccount, precision: str, device: Device
) -> Figure | None:
    """Rate of this model or one of its shape on this device; measured before published."""
    matching = [
        point
        for point in points
        if point.gpu == device.name
        and point.precision == precision
        and model_account(point.model).same_shape(model)
    ]
    if not matching:
        return None
    best = min(matching, key=lambda point: point.basis is not Basis.MEASURED)
    return Figure(best.tokens_per_s, "tokens/s", best.basis, best.source)
