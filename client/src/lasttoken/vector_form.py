"""In what form the caller wants the vectors: how long, and of which type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken.embeddings import ModelInfo
from lasttoken.errors import InvalidInput
from lasttoken.quantization import OUTPUT_DTYPES, OutputDtype, quantize


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VectorForm:
    """Checked wishes; applied in this order: cut to size, normalise, change the type.

    Attributes:
        dimensions: Elements that are kept of each vector; None for all.
        normalize: Whether a vector that was cut is brought to length 1 again.
        output_dtype: Type of the answer.
        ranges: `[2, D]` for int8 and uint8; None takes them from the vectors themselves.
        forced: Whether `dimensions` may be a size that the model was not trained for.
    """

    dimensions: int | None = None
    normalize: bool = True
    output_dtype: OutputDtype = "float32"
    ranges: npt.NDArray[np.floating[Any]] | None = None
    forced: bool = False

    def apply(self, vectors: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
        """Bring the server's vectors, `[n, D]` or `[D]` float32, into this form.

        Raises:
            InvalidInput: The ranges are not for vectors of this length, or a range would have to
                come from a single vector.
        """
        if self.dimensions is not None and self.dimensions < vectors.shape[-1]:
            vectors = vectors[..., : self.dimensions]
            if self.normalize:
                norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
                vectors = vectors / np.maximum(norms, np.float32(1e-12))
            else:
                vectors = np.ascontiguousarray(vectors)
        if self.ranges is not None and self.ranges.shape[1] != vectors.shape[-1]:
            raise InvalidInput(
                f"ranges are for {self.ranges.shape[1]} dimensions and the vectors have "
                f"{vectors.shape[-1]}; take the ranges from vectors of the same form"
            )
        return quantize(vectors, self.output_dtype, self.ranges)


PLAIN = VectorForm()
"""As the server sends them."""


def check_form(
    *,
    dimensions: int | None,
    force_dimensions: bool,
    output_dtype: OutputDtype,
    ranges: npt.ArrayLike | None,
    normalize: bool = True,
) -> VectorForm:
    """Check what can be checked without the model.

    Raises:
        InvalidInput: A value of a wrong type, or ranges that are not `[2, D]`, no ranges or not
            used.
    """
    whole = isinstance(dimensions, (int, np.integer)) and not isinstance(dimensions, bool)
    if dimensions is not None and not (whole and dimensions > 0):
        raise InvalidInput(f"dimensions is {dimensions!r}; it must be a whole number above 0")
    if output_dtype not in OUTPUT_DTYPES:
        raise InvalidInput(
            f"output_dtype is {output_dtype!r}; use one of {', '.join(map(repr, OUTPUT_DTYPES))}"
        )
    if dimensions is None and ranges is None and output_dtype == "float32":
        return PLAIN
    array = None
    if ranges is not None:
        array = np.asarray(ranges)
        if output_dtype not in ("int8", "uint8"):
            raise InvalidInput(f"ranges are given and output_dtype is {output_dtype!r}; they are "
                               "for 'int8' and 'uint8' only")  # fmt: skip
        if array.ndim != 2 or array.shape[0] != 2 or array.dtype.kind != "f":
            raise InvalidInput(
                f"ranges are {array.dtype} of shape {array.shape}; give floats of shape (2, D), "
                "each dimension's smallest and largest value"
            )
        if not (np.isfinite(array).all() and (array[0] <= array[1]).all()):
            raise InvalidInput(
                "ranges hold NaN, infinity, or a smallest value above its largest; row 0 has each "
                "dimension's smallest value, row 1 its largest"
            )
    return VectorForm(
        dimensions=None if dimensions is None else int(dimensions),
        normalize=normalize,
        output_dtype=output_dtype,
        ranges=array,
        forced=force_dimensions,
    )


def check_trained_size(form: VectorForm, info: ModelInfo) -> None:
    """Check a wished size against what the model was trained for, which its card tells.

    Raises:
        InvalidInput: Larger than the model's vectors, or not a size that it was trained for and
            not forced.
    """
    wished = form.dimensions
    if wished is None or (form.forced and wished <= (info.dimensions or 0)):
        return
    words = untrained_size(wished, info)
    if words is None:
        return
    if wished < (info.dimensions or 0):
        words += "; force_dimensions=True (as an option --force-dimensions) cuts it all the same"
    raise InvalidInput(words)


def untrained_size(wished: int, info: ModelInfo) -> str | None:
    """Say why a model has no vectors of a size, in words for the caller; None where it has."""
    full = info.dimensions or 0
    if wished > full:
        return f"dimensions is {wished}; the vectors of {info.name} have {full}"
    sizes = (info.card or {}).get("matryoshka")
    if wished == full or _is_trained(wished, sizes):
        return None
    return (
        f"dimensions is {wished}; {info.name} {_trained_words(sizes)}, so a shorter vector loses "
        "more than it should"
    )


def _is_trained(wished: int, sizes: object) -> bool:
    if not isinstance(sizes, Mapping):
        return False
    return wished in sizes.get("dimensions", ()) or wished >= sizes.get("minimum", wished + 1)


def _trained_words(sizes: object) -> str:
    if not isinstance(sizes, Mapping):
        return "was not trained for shorter vectors"
    if "minimum" in sizes:
        return f"was trained for {sizes['minimum']} dimensions and more"
    listed = ", ".join(str(size) for size in sizes.get("dimensions", ()))
    return f"was trained for the sizes {listed}"
