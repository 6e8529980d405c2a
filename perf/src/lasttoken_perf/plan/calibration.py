"""Points that were measured or published, which override the roofline where they exist."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from lasttoken_perf.errors import InvalidCalibration
from lasttoken_perf.plan.devices import Device, load_devices
from lasttoken_perf.plan.figure import Basis, Figure
from lasttoken_perf.plan.model_account import ModelAccount, model_account
from lasttoken_perf.plan.storage import STORAGES

_KEYS = {"gpu", "model", "precision", "tokens_per_s", "basis", "source"}


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
    """Read calibration points, a JSON list; None for the package's own.

    Raises:
        InvalidCalibration: The file cannot be read, or a point is malformed.
    """
    shipped = resources.files("lasttoken_perf.plan") / "data" / "calibration.json"
    try:
        points = json.loads((path or shipped).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidCalibration(f"{str(path)!r} cannot be read as JSON: {error}") from None
    if not isinstance(points, list):
        raise InvalidCalibration(f"{str(path)!r} must hold a list of points")
    return tuple(_point(point) for point in points)


def _point(point: Any) -> CalibrationPoint:
    if not isinstance(point, dict) or point.keys() != _KEYS:
        raise InvalidCalibration(f"a point is {point!r}; its keys must be {sorted(_KEYS)!r}")
    gpus = [device.name for device in load_devices()]
    bases = [Basis.MEASURED.value, Basis.PUBLISHED.value]
    for name, known in (("gpu", gpus), ("precision", list(STORAGES)), ("basis", bases)):
        if point[name] not in known:
            raise InvalidCalibration(f"a point's {name} is {point[name]!r}; known are {known!r}")
    rate = point["tokens_per_s"]
    if not isinstance(rate, int | float) or not rate > 0 or not point["source"]:
        raise InvalidCalibration(f"{point!r}: tokens_per_s must be above 0, and source given")
    model_account(point["model"])  # a name that is not known is refused
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
