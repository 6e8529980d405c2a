"""Vectors of a model that modelopt quantised, from a torch process in an environment of its own."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.modelopt.schemes import ModeloptScheme
from lasttoken_perf.peers.process import PeerProcess

_MODULE = "lasttoken_perf.peers.modelopt_quantiser"


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchModel:
    """What the torch process gets.

    Attributes:
        folder: The weights as a Hugging Face folder.
        pooling: ``last_token``, ``cls`` or ``mean``.
        attention: ``causal`` or ``bidirectional``.
        calibration: One ``[length] int32`` a text that scales are taken from.
        rows: One a text that is embedded.
        python: Interpreter of modelopt's environment.
        variables: Environment variables of the process.
        work_folder: For the files between the processes.
    """

    folder: Path
    pooling: str
    attention: str
    calibration: Sequence[NDArray[np.int32]]
    rows: Sequence[NDArray[np.int32]]
    python: Path
    variables: Mapping[str, str]
    work_folder: Path


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Quantised:
    """What came back.

    Attributes:
        vectors: ``[rows, dim]``.
        versions: Of modelopt, torch and transformers.
        input_widths: Inputs of each linear layer, by its name.
        quantisers: Those that were on, by name, with modelopt's words for each.
    """

    vectors: NDArray[np.float32]
    versions: Mapping[str, str]
    input_widths: Mapping[str, int]
    quantisers: Mapping[str, str]

    def beyond_linears(self) -> list[str]:
        """Names of the quantisers that belong to no linear layer."""
        owners = self.input_widths.keys()
        return sorted(name for name in self.quantisers if name.rpartition(".")[0] not in owners)


def quantise(model: TorchModel, scheme: ModeloptScheme) -> Quantised:
    """Quantise and embed.

    Raises:
        PeerFailed: The process died.
        WrongAnswer: A linear layer was left out, or one is quantised where none should be.
    """
    report_file = model.work_folder / "report.json"
    settings: dict[str, Any] = {
        "folder": str(model.folder),
        "pooling": model.pooling,
        "attention": model.attention,
        "config": scheme.config,
        "block_size": scheme.block_size,
        "linears_only": scheme.linears_only,
        "calibration": [row.tolist() for row in model.calibration],
        "rows": [row.tolist() for row in model.rows],
        "report": str(report_file),
    }
    with PeerProcess(
        _MODULE, settings, model.work_folder, python=model.python, variables=model.variables
    ) as process:
        vectors = process.corpus().vectors
        version = process.version
    report = json.loads(report_file.read_text(encoding="utf-8"))
    found = Quantised(
        vectors=vectors,
        versions={"nvidia-modelopt": version, **report["versions"]},
        input_widths=report["input_widths"],
        quantisers=report["quantisers"],
    )
    check_linears(found, scheme)
    return found


def check_linears(found: Quantised, scheme: ModeloptScheme) -> None:
    """Check that the weights of all linear layers are quantised, or of none.

    Raises:
        WrongAnswer: They are not.
    """
    weights = {
        name.removesuffix(".weight_quantizer")
        for name in found.quantisers
        if name.endswith(".weight_quantizer")
    }
    expected = set() if scheme.config is None else set(found.input_widths)
    if different := sorted(weights ^ expected):
        raise WrongAnswer(
            f"{scheme.variant}: modelopt quantised {len(weights)} of {len(found.input_widths)} "
            f"linear layers, {len(expected)} were expected; the first difference is "
            f"{different[0]!r}"
        )
    if scheme.linears_only and (others := found.beyond_linears()):
        raise WrongAnswer(
            f"{scheme.variant}: modelopt quantised more than linear layers, {others[0]!r} for one"
        )
