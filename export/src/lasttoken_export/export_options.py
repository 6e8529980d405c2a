"""What the caller of an export chooses. Light, as the command line reads it before all else."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from lasttoken_export.errors import InvalidOption
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.precisions import PRECISIONS, find_precision
from lasttoken_export.quality.gate import check_accepted
from lasttoken_export.quality.quality_options import QualityOptions
from lasttoken_export.quantisation.calibration_options import CalibrationOptions
from lasttoken_export.tensorrt.plan_choices import PlanChoices

GRAPHS = ("auto", "packed", "padded")
"""Forms of the graph; ``auto`` is packed wherever the architecture has a packed graph."""

RUNTIMES = {
    "onnxruntime": "onnxruntime-cpu",
    "onnxruntime-cuda": "onnxruntime-cuda",
    "tensorrt": "tensorrt",
    "tensorrt-rtx": "tensorrt-rtx",
}
"""Names of the command line and of the encoder's parameter ``runtime``."""

DEFAULT_QUEUE_TOKENS = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What the caller chooses.

    Attributes:
        output: Folder of the Triton model repository.
        precision: One of `PRECISIONS`, which the runtime can run.
        runtime: One of `RUNTIMES`.
        triton_name: Name of the ensemble; None for the model's own.
        max_length: Longest text in tokens; None for the model's own.
        max_queue_tokens: Most tokens waiting in the encoder; None for 65,536, or a batch's where
            that is more.
        on_overflow: ``truncate`` or ``refuse`` a text beyond max_length.
        intra_op_threads: Threads of the runtime; 0 for one a core.
        streams: Batches that the CPU computes beside each other, each on one thread, while as many
            wait; 0 for as many as threads where the memory allows it, 1 for one batch at a time.
        kept_prefix_tokens: Most tokens whose keys and values a causal model's encoder keeps from
            batch to batch, on the CPU; 0 for none, None for 1,024.
        plan: About the plan, for the TensorRT runtimes.
        encoder: ``python`` for the scheduler's, ``native`` for a backend of Triton's own.
        native_batch_size: Most rows of a batch of a native encoder; None for 8.
        quality: How the vectors are compared with fp32's before anything is published.
        calibration: Texts and folder of the precisions that are calibrated; None for the defaults.

    Raises:
        InvalidOption: A value is not one of those known, the runtime cannot run the precision, or
            an option would do nothing.
    """

    output: Path
    precision: str = "fp32"
    runtime: str = "onnxruntime"
    triton_name: str | None = None
    max_length: int | None = None
    max_queue_tokens: int | None = None
    on_overflow: str = "truncate"
    intra_op_threads: int = 0
    streams: int = 0
    kept_prefix_tokens: int | None = None
    plan: PlanChoices = field(default_factory=PlanChoices)
    encoder: str = "python"
    native_batch_size: int | None = None
    quality: QualityOptions = field(default_factory=QualityOptions)
    calibration: CalibrationOptions | None = None

    def __post_init__(self) -> None:
        for name, known in (
            ("precision", tuple(PRECISIONS)),
            ("runtime", tuple(RUNTIMES)),
            ("on_overflow", ("truncate", "refuse")),
            ("encoder", ("python", "native")),
        ):
            if getattr(self, name) not in known:
                raise InvalidOption(
                    f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}"
                )
        find_precision(self.precision, self.runtime)
        for name, least in (
            ("max_length", 1),
            ("max_queue_tokens", 1),
            ("intra_op_threads", 0),
            ("streams", 0),
            ("kept_prefix_tokens", 0),
            ("native_batch_size", 1),
        ):
            value = getattr(self, name)
            if value is not None and value < least:
                raise InvalidOption(f"{name} is {value}; choose {least} or more")
        if self.triton_name is not None:
            check_triton_name(self.triton_name)
        if self.native_batch_size is not None and self.encoder != "native":
            raise InvalidOption("--native-batch-size is of a native encoder; add --encoder native")
        if self.max_queue_tokens is not None and self.encoder == "native":
            raise InvalidOption("--max-queue-tokens is of the python encoder; leave it out")
        if self.runtime != "onnxruntime" or self.encoder == "native":
            for option, is_chosen in (
                ("--streams", self.streams),
                ("--kept-prefix-tokens", self.kept_prefix_tokens is not None),
            ):
                if is_chosen:
                    raise InvalidOption(
                        f"{option} is of the python encoder on --runtime onnxruntime; leave it out"
                    )
        if self.calibration is not None and not PRECISIONS[self.precision].is_calibrated:
            for name in self.calibration.chosen:
                raise InvalidOption(
                    f"--calibration-{name} is of calibrated precisions, and {self.precision} is "
                    "none"
                )
        if self.quality.accepted and (self.precision == "fp32" or not self.quality.pairs):
            raise InvalidOption(
                "--accept-quality is of figures that are measured; in fp32, and with "
                "--quality-pairs 0, none are: leave it out"
            )
        check_accepted(self.quality.accepted, self.precision)

    def queue_tokens(self, max_batch_tokens: int) -> int:
        """Return the most tokens waiting.

        Args:
            max_batch_tokens: Most tokens of a batch, the longest text at least.

        Raises:
            InvalidOption: Fewer than a batch's were chosen: it would never fill.
        """
        if self.max_queue_tokens is None:
            return max(DEFAULT_QUEUE_TOKENS, max_batch_tokens)
        if self.max_queue_tokens < max_batch_tokens:
            raise InvalidOption(
                f"--max-queue-tokens is {self.max_queue_tokens}; a batch takes up to "
                f"{max_batch_tokens} tokens, and the queue must hold one: choose "
                f"{max_batch_tokens} or more"
            )
        return self.max_queue_tokens


def check_triton_name(name: str) -> None:
    """Refuse a name that is no folder's, or that would be a step's of another model.

    Args:
        name: Wanted for the ensemble.

    Raises:
        InvalidOption: It is one of these.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise InvalidOption(
            f"{name!r} cannot name a model: take letters, digits, '_', '-' and '.', the first no "
            "'-' or '.'"
        )
    for step in (TOKENIZER, ENCODER):
        if name.endswith(step):
            raise InvalidOption(
                f"{name!r} ends in {step!r}, as the models within an ensemble do; choose another "
                "--name"
            )
