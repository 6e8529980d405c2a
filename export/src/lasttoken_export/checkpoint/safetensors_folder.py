"""A Hugging Face folder: config.json, safetensors in one file or in shards, and a tokenizer.

A shard is opened for each tensor and closed again, so that its pages do not stay in memory: the
resident size of an export is that of its largest tensor, whatever the model's size. Pickled weights
(``.bin``) are never read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from lasttoken_export.architectures import read_config
from lasttoken_export.checkpoint.base import canonical_name
from lasttoken_export.errors import (
    CorruptFile,
    InvalidCheckpoint,
    MissingTensor,
    ModelNotFound,
    UnsupportedModel,
)
from lasttoken_export.json_file import read_object
from lasttoken_export.tokenizer.folder_tokenizer import tokenizer_json_of_folder

_LONGEST_NAME = 60
"""Characters of a shard's file name: any file system takes them, and no published name has more."""
_FLOATS = ("F32", "F16", "BF16")


class SafetensorsFolder:
    """Implements `Checkpoint` for a folder.

    Args:
        folder: The folder.
        location: What to call it; None for its path.
        revision: Revision that it was downloaded at.

    Raises:
        ModelNotFound: It has no config.json or no safetensors file.
        InvalidCheckpoint: A file is corrupt or a shard is missing.
        UnsupportedModel: The graph cannot reproduce the model, or its weights are not floats.
    """

    def __init__(
        self, folder: Path, *, location: str | None = None, revision: str | None = None
    ) -> None:
        self.location = location or str(folder)
        self.revision = revision
        self.folder = folder
        self.config = read_config(self._read_json("config.json"))
        self._files: dict[str, tuple[Path, str]] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._promised: dict[str, str] = {}  # by the index: tensor to shard
        for path in self._weight_files():
            self._read_header(path)
        for name, file in self._promised.items():
            canonical = canonical_name(name)
            if canonical is not None and canonical not in self._files:
                raise MissingTensor(
                    f"{self.location}: the index promises {name!r} in {file!r}, which does not "
                    "hold it; download the shard again"
                )

    def names(self) -> frozenset[str]:
        """See `Checkpoint.names`."""
        return frozenset(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """See `Checkpoint.shape`."""
        return self._shapes[name]

    def read(self, name: str) -> NDArray[Any]:
        """See `Checkpoint.read`."""
        path, name_in_file = self._files[name]
        with _opened(path) as file:
            array: NDArray[Any] = file.get_tensor(name_in_file)
        return array

    def read_rows(self, name: str, rows: NDArray[np.int64]) -> bytes:
        """See `weights_digest.Sampled`; float32, whatever type they are stored in."""
        path, name_in_file = self._files[name]
        with _opened(path) as file:
            if len(self._shapes[name]) < 2:
                parts = [file.get_tensor(name_in_file)]
            else:
                tensor = file.get_slice(name_in_file)
                parts = [tensor[int(row) : int(row) + 1] for row in rows]
        return b"".join(part.astype(np.float32).tobytes() for part in parts)

    def tokenizer_json(self) -> str:
        """See `Checkpoint.tokenizer_json`."""
        return tokenizer_json_of_folder(self.folder, self.location)

    def _weight_files(self) -> list[Path]:
        index = self.folder / "model.safetensors.index.json"
        if index.is_file():
            weight_map = self._read_json(index.name).get("weight_map")
            if not isinstance(weight_map, dict) or not weight_map:
                raise CorruptFile(f"{index} has no weight_map; download it again")
            names = sorted(set(map(str, weight_map.values())))
            if strays := [n for n in names if Path(n).name != n or len(n) > _LONGEST_NAME]:
                raise CorruptFile(f"{index} names no files of its folder: {strays[0]!r}")
            if missing := [name for name in names if not (self.folder / name).is_file()]:
                raise InvalidCheckpoint(
                    f"{self.location}: {len(missing)} of {len(names)} shards are missing, the "
                    f"first is {missing[0]!r}; download them"
                )
            self._promised = {str(name): str(file) for name, file in weight_map.items()}
            return [self.folder / name for name in names]
        single = self.folder / "model.safetensors"
        if single.is_file():
            return [single]
        raise ModelNotFound(
            f"{self.location} has no model.safetensors and no model.safetensors.index.json; "
            "pickled weights (.bin) are not read: convert them with safetensors"
        )

    def _read_header(self, path: Path) -> None:
        with _opened(path) as file:
            for name in file.keys():  # noqa: SIM118 - not a dict
                canonical = canonical_name(name)
                if canonical is None:
                    continue
                if canonical in self._files:
                    raise InvalidCheckpoint(f"{self.location}: {canonical!r} is there twice")
                tensor = file.get_slice(name)
                if tensor.get_dtype() not in _FLOATS:
                    raise UnsupportedModel(
                        f"{self.location}: {name!r} is of type {tensor.get_dtype()}; already "
                        "quantised weights are not read: export the original checkpoint"
                    )
                self._files[canonical] = (path, name)
                self._shapes[canonical] = tuple(tensor.get_shape())

    def _read_json(self, name: str) -> dict[str, Any]:
        try:
            return read_object(self.folder / name)
        except FileNotFoundError:
            raise ModelNotFound(
                f"{self.location} has no {name}; it is not a Hugging Face model folder"
            ) from None


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="np") as file:
            yield file
    except SafetensorError as error:
        raise CorruptFile(
            f"{path} is truncated or not a safetensors file: {error}; download it again"
        ) from None
