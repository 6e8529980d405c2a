"""A GGUF file: quantised or not, one tensor dequantised at a time.

For the Llama family llama.cpp permutes the rows of the query and key projections for its own rotary
embedding; here the permutation is undone.

Source: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py (``permute``)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from lasttoken_export.architectures import ModelConfig, read_gguf_config
from lasttoken_export.checkpoint.gguf_directory import GgufTensor, read_gguf_directory
from lasttoken_export.checkpoint.gguf_names import canonical_gguf_name
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import CorruptFile, UnsupportedModel
from lasttoken_export.json_file import MOST_TOKENIZER_BYTES, read_text
from lasttoken_export.tokenizer.gguf_vocabulary import tokenizer_json_from_gguf


class GgufFile:
    """Implements `Checkpoint` for a GGUF file.

    Args:
        path: The file.
        location: What to call it; None for its name.
        revision: Revision or digest of it.

    Raises:
        CorruptFile: It is truncated or not a GGUF file; see `read_gguf_directory`.
        UnsupportedModel: The graph cannot reproduce the model.
    """

    def __init__(
        self, path: Path, *, location: str | None = None, revision: str | None = None
    ) -> None:
        self.location = location or path.name
        self.revision = revision
        self._path = path
        self.folder = path.parent
        self._metadata, tensors = read_gguf_directory(path)
        self._stored = _by_canonical_name(self._metadata, tensors)
        self.config: ModelConfig = read_gguf_config(
            self._metadata, {name: stored.shape for name, stored in self._stored.items()}
        )
        # llama.cpp rotates the Qwen models as Hugging Face does.
        self._permuted = self._metadata["general.architecture"] == "llama"

    def names_of_model(self) -> frozenset[str]:
        """What the file calls its model: name, base name with size, and where it came from.

        Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (general metadata)
        """
        general = {
            key.removeprefix("general."): str(value)
            for key, value in self._metadata.items()
            if key.startswith("general.")
        }
        base = general.get("basename", "")
        return frozenset(
            name
            for name in (
                general.get("name", ""),
                base,
                f"{base}-{general['size_label']}" if base and "size_label" in general else "",
                general.get("source.url", "").rstrip("/").rpartition("/")[2],
                general.get("source.repo_url", "").rstrip("/").rpartition("/")[2],
            )
            if name
        )

    def names(self) -> frozenset[str]:
        """See `Checkpoint.names`."""
        return frozenset(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Checkpoint.shape`."""
        return self._stored[name].shape

    def read(self, name: str) -> NDArray[Any]:
        """See `Checkpoint.read`; quantised tensors come as float32."""
        stored = self._stored[name]
        # Read, not mapped: mapped pages would stay resident.
        data = np.fromfile(self._path, np.uint8, count=stored.bytes, offset=stored.offset)
        if len(data) != stored.bytes:
            raise CorruptFile(f"{self._path} ends within {name!r}; download it again")
        array = _dequantise(data, stored)
        if not np.isfinite(array).all():  # a damaged block scales all its elements
            raise CorruptFile(f"{self._path} has elements of {name!r} that are no finite numbers")
        if self._permuted and name.endswith(("q_proj.weight", "k_proj.weight")):
            assert isinstance(self.config, DecoderConfig)
            heads = self.config.num_heads if "q_proj" in name else self.config.num_kv_heads
            return unpermute(array, heads)
        return array

    def read_rows(self, name: str, rows: NDArray[np.int64]) -> bytes:
        """See `weights_digest.Sampled`; as they are stored, quantised and in llama.cpp's order."""
        stored = self._stored[name]
        size = stored.bytes // (stored.shape[0] if len(stored.shape) > 1 else 1)
        parts = []
        with self._path.open("rb") as file:
            for row in rows.tolist():
                file.seek(stored.offset + row * size)
                parts.append(file.read(size))
        return stored.type.name.encode() + b"".join(parts)

    def tokenizer_json(self) -> str:
        """See `Checkpoint.tokenizer_json`: tokenizer.json beside the file, else its vocabulary."""
        beside = self._path.with_name("tokenizer.json")
        if beside.is_file():
            return read_text(beside, most_bytes=MOST_TOKENIZER_BYTES)
        return tokenizer_json_from_gguf(self._metadata)


def unpermute(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Bring the rows of ``weight [heads * head_dim, in]`` back to Hugging Face's order.

    llama.cpp interleaves the two halves of each head, which Hugging Face keeps apart.
    """
    rows, columns = weight.shape
    interleaved = weight.reshape(heads, rows // heads // 2, 2, columns)
    return interleaved.swapaxes(1, 2).reshape(rows, columns)


def _by_canonical_name(
    metadata: Mapping[str, Any], tensors: Iterable[GgufTensor]
) -> dict[str, GgufTensor]:
    stored: dict[str, GgufTensor] = {}
    for tensor in tensors:
        canonical = canonical_gguf_name(tensor.name, str(metadata.get("general.architecture")))
        if canonical is not None:
            # One row is written flat.
            is_table = canonical.endswith("_embeddings.weight") and len(tensor.shape) == 1
            stored[canonical] = replace(tensor, shape=(1, *tensor.shape)) if is_table else tensor
    return stored


def _dequantise(data: NDArray[np.uint8], stored: GgufTensor) -> NDArray[Any]:
    if stored.type == gguf.GGMLQuantizationType.F32:
        return data.view(np.float32).reshape(stored.shape)
    if stored.type == gguf.GGMLQuantizationType.F16:
        return data.view(np.float16).reshape(stored.shape)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[stored.type]
    row_bytes = stored.shape[-1] // block_size * block_bytes
    try:
        rows = data.reshape(*stored.shape[:-1], row_bytes)
        with np.errstate(invalid="ignore", over="ignore"):  # the caller looks at the elements
            return np.asarray(gguf.dequantize(rows, stored.type), np.float32)
    except NotImplementedError as error:
        raise UnsupportedModel(f"GGUF type {stored.type.name} cannot be read: {error}") from None
