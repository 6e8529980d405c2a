"""Settings of the encoder, read from the ``parameters`` of its config.pbtxt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

PLAN_RUNTIMES = ("tensorrt", "tensorrt-rtx")
RUNTIMES = ("onnxruntime-cpu", "onnxruntime-cuda", *PLAN_RUNTIMES)
GRAPH_FORMS = ("packed", "padded")


class InvalidSettings(ValueError):
    """A parameter of config.pbtxt is unknown, missing, malformed or out of range."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """What config.pbtxt says; see the comments there.

    Raises:
        InvalidSettings: A value is out of its range.
    """

    runtime: str
    graph_form: str
    precision: str
    revision: str
    intra_op_threads: int
    streams: int
    kept_prefix_tokens: int
    max_length: int
    vocab_size: int
    max_batch_tokens: int
    preferred_batch_tokens: int
    max_batch_rows: int
    max_queue_tokens: int
    bulk_queue_fraction: float
    bulk_every: int
    attention_cell_cost: float
    batch_overhead_tokens: float
    drain_timeout_s: float

    def __post_init__(self) -> None:
        self._require(self.runtime in RUNTIMES, "runtime", f"one of {', '.join(RUNTIMES)}")
        self._require(
            self.graph_form in GRAPH_FORMS, "graph_form", f"one of {', '.join(GRAPH_FORMS)}"
        )
        self._require(
            self.graph_form == "packed" or self.runtime not in PLAN_RUNTIMES,
            "graph_form",
            f"'packed' for runtime {self.runtime!r}",
        )
        self._require(self.intra_op_threads >= 0, "intra_op_threads", "0 or more")
        self._require(self.streams >= 0, "streams", "0 or more")
        self._require(self.kept_prefix_tokens >= 0, "kept_prefix_tokens", "0 or more")
        self._require(
            self.streams <= 1 or self.runtime == "onnxruntime-cpu",
            "streams",
            f"0 or 1 for runtime {self.runtime!r}",
        )
        for name in ("max_length", "vocab_size", "preferred_batch_tokens", "max_batch_rows"):
            self._require(getattr(self, name) >= 1, name, "1 or more")
        self._require(
            self.max_batch_tokens >= max(self.max_length, self.preferred_batch_tokens),
            "max_batch_tokens",
            f"at least max_length ({self.max_length}) and preferred_batch_tokens "
            f"({self.preferred_batch_tokens})",
        )
        self._require(
            self.max_queue_tokens >= self.max_batch_tokens,
            "max_queue_tokens",
            f"at least max_batch_tokens ({self.max_batch_tokens})",
        )
        self._require(0 < self.bulk_queue_fraction <= 1, "bulk_queue_fraction", "above 0, up to 1")
        self._require(self.bulk_every >= 2, "bulk_every", "2 or more")
        for name in ("attention_cell_cost", "batch_overhead_tokens", "drain_timeout_s"):
            self._require(0 <= getattr(self, name) < float("inf"), name, "0 or more, and finite")

    def _require(self, holds: bool, name: str, wanted: str) -> None:
        if not holds:
            raise InvalidSettings(
                f"parameter {name} is {getattr(self, name)!r}; set it to {wanted} in config.pbtxt"
            )

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Mapping[str, str]]) -> EncoderSettings:
        """Read Triton's JSON form ``{name: {"string_value": text}}``.

        Raises:
            InvalidSettings: A parameter is unknown, missing, malformed or out of range.
        """
        types = {"int": int, "float": float, "str": str}
        wanted = {field.name: types[str(field.type)] for field in fields(cls)}
        unknown, missing = parameters.keys() - wanted.keys(), wanted.keys() - parameters.keys()
        if unknown or missing:
            raise InvalidSettings(
                f"config.pbtxt has unknown parameters {sorted(unknown)!r} and lacks "
                f"{sorted(missing)!r}; known are {sorted(wanted)!r}"
            )
        values: dict[str, int | float | str] = {}
        for name, convert in wanted.items():
            text = parameters[name]["string_value"]
            try:
                values[name] = convert(text)
            except ValueError:
                raise InvalidSettings(
                    f"parameter {name} is {text!r}; set it to a value of type {convert.__name__} "
                    "in config.pbtxt"
                ) from None
        return cls(**values)  # type: ignore[arg-type]
