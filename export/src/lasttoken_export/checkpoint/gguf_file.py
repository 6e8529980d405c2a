"""A GGUF file: quantised or not, one tensor dequantised at a time.

For the Llama family llama.cpp permutes the rows of the query and key projections for its own rotary
embedding; here the permutation is undone.

Source: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py (``permute``)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from lasttoken_export.architectures import ModelConfig, read_gguf_config
from lasttoken_export.checkpoint.gguf_names import canonical_gguf_name
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import CorruptFile, UnsupportedModel
from lasttoken_export.tokenizer.gguf_vocabulary import tokenizer_json_from_gguf


@dataclass(frozen=True, slots=True)
class _Stored:
    """Where a tensor lies in the file."""

    offset: int
    bytes: int
    type: gguf.GGMLQuantizationType
    shape: tuple[int, ...]


class GgufFile:
    """Implements `Checkpoint` for a GGUF file.

    Args:
        path: The file.
        location: What to call it; None for its name.
        revision: Revision or digest of it.

    Raises:
        CorruptFile: It is truncated or not a GGUF file.
        UnsupportedModel: The graph cannot reproduce the model.
    """

    def __init__(
        self, path: Path, *, location: str | None = None, revision: str | None = None
    ) -> None:
        self.location = location or path.name
        self.revision = revision
        self._path = path
        self.folder = path.parent
        self._metadata, self._stored = _read_directory(path)
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
        if self._permuted and name.endswith(("q_proj.weight", "k_proj.weight")):
            assert isinstance(self.config, DecoderConfig)
            heads = self.config.num_heads if "q_proj" in name else self.config.num_kv_heads
            return unpermute(array, heads)
        return array

    def tokenizer_json(self) -> str:
        """See `Checkpoint.tokenizer_json`: tokenizer.json beside the file, else its vocabulary."""
        beside = self._path.with_name("tokenizer.json")
        if beside.is_file():
            return beside.read_text(encoding="utf-8")
        return tokenizer_json_from_gguf(self._metadata)


def unpermute(weight: NDArray[Any], heads: int) -> NDArray[Any]:
    """Bring the rows of ``weight [heads * head_dim, in]`` back to Hugging Face's order.

    llama.cpp interleaves the two halves of each head, which Hugging Face keeps apart.
    """
    rows, columns = weight.shape
    interleaved = weight.reshape(heads, rows // heads // 2, 2, columns)
    return interleaved.swapaxes(1, 2).reshape(rows, columns)


def _read_directory(path: Path) -> tuple[dict[str, Any], dict[str, _Stored]]:
    try:
        reader = gguf.GGUFReader(path)
        metadata = {key: field.contents() for key, field in reader.fields.items()}
        tensors = [
            (
                str(tensor.name),
                _Stored(
                    int(tensor.data_offset),
                    int(tensor.n_bytes),
                    tensor.tensor_type,
                    tuple(int(size) for size in reversed(tensor.shape.tolist())),
                ),
            )
            for tensor in reader.tensors
        ]
    except FileNotFoundError:
        raise
    except Exception as error:  # noqa: BLE001 - the reader raises whatever it stumbles upon
        raise CorruptFile(
            f"{path} is truncated or not a GGUF file: {error!r}; download it again"
        ) from None
    size = path.stat().st_size
    stored: dict[str, _Stored] = {}
    for name, where in tensors:
        if where.offset + where.bytes > size:
            raise CorruptFile(f"{path} ends within {name!r}; download it again")
        canonical = canonical_gguf_name(name, str(metadata.get("general.architecture")))
        if canonical is not None:
            # One row is written flat.
            is_table = canonical.endswith("_embeddings.weight") and len(where.shape) == 1
            stored[canonical] = replace(where, shape=(1, *where.shape)) if is_table else where
    return metadata, stored


def _dequantise(data: NDArray[np.uint8], stored: _Stored) -> NDArray[Any]:
    if stored.type == gguf.GGMLQuantizationType.F32:
        return data.view(np.float32).reshape(stored.shape)
    if stored.type == gguf.GGMLQuantizationType.F16:
        return data.view(np.float16).reshape(stored.shape)
    block_size, block_bytes = gguf.GGML_QUANT_SIZES[stored.type]
    row_bytes = stored.shape[-1] // block_size * block_bytes
    try:
        rows = data.reshape(*stored.shape[:-1], row_bytes)
        return np.asarray(gguf.dequantize(rows, stored.type), np.float32)
    except NotImplementedError as error:
        raise UnsupportedModel(f"GGUF type {stored.type.name} cannot be read: {error}") from None
