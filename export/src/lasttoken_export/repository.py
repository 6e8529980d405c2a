"""Writes the three folders of an exported model into a Triton model repository.

Everything is written to a folder aside and renamed into place at the end, the ensemble last: a
server never sees half a model, and a failed export leaves the repository as it was.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from lasttoken_export.errors import InvalidOption, NotEnoughDisk
from lasttoken_export.model_config import adapt_config
from lasttoken_export.model_sources import (
    ENCODER,
    ENSEMBLE,
    SOURCE_MODEL,
    TOKENIZER,
    model_sources,
)
from lasttoken_export.native_config import (
    NativeEncoder,
    native_encoder_config,
    native_ensemble_config,
)
from lasttoken_export.staging import NEW, OLD, staging_folder, staging_parent

_DISK_MARGIN_BYTES = 64 * 2**20
"""Room for everything that is not weights: graph, tokenizer, Python files."""


class RepositoryWriter:
    """The three folders of one model while they are being written.

    Attributes:
        model: Triton name of the model.
        staging: Folder that holds them until `publish`.
        native: Encoder on a backend of Triton's own; None for the Python one.
    """

    def __init__(self, model: str, staging: Path) -> None:
        self.model = model
        self.staging = staging
        self.native: NativeEncoder | None = None

    def version_folder(self, step: str) -> Path:
        """Folder ``<model><step>/1``, made if need be."""
        folder = self.staging / f"{self.model}{step}" / "1"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_models(self, *, dimensions: int, parameters: Mapping[str, Mapping[str, str]]) -> None:
        """Copy the Python files and adapt the configurations.

        Args:
            dimensions: Elements of an embedding.
            parameters: New parameter values by step.
        """
        for step in (ENSEMBLE, TOKENIZER, ENCODER):
            self._write_config(step, dimensions, parameters.get(step, {}))
            if step == ENCODER and self.native is not None:
                continue
            source = model_sources() / f"{SOURCE_MODEL}{step}"
            for file in sorted((source / "1").glob("*.py")):
                shutil.copyfile(file, self.version_folder(step) / file.name)

    def write_card(self, card: Mapping[str, Any], *, dimensions: int) -> None:
        """Write card.json, and the card into the ensemble's configuration.

        Args:
            card: JSON values.
            dimensions: Elements of an embedding.
        """
        self.write_json(ENSEMBLE, "card.json", card)
        text = json.dumps(card, ensure_ascii=False, separators=(",", ":"))
        self._write_config(ENSEMBLE, dimensions, {"card": text})

    def _write_config(self, step: str, dimensions: int, parameters: Mapping[str, str]) -> None:
        source = model_sources() / f"{SOURCE_MODEL}{step}" / "config.pbtxt"
        config = adapt_config(
            source.read_text(encoding="utf-8"),
            model=self.model,
            dimensions=dimensions,
            parameters=parameters,
        )
        if self.native is not None and step == ENCODER:
            config = native_encoder_config(self.native, model=self.model, dimensions=dimensions)
        elif self.native is not None and step == ENSEMBLE:
            config = native_ensemble_config(config, self.native)
        path = self.version_folder(step).parent / "config.pbtxt"
        path.write_text(config, encoding="utf-8")

    def write_json(self, step: str, name: str, value: Any) -> Path:
        """Write a JSON file beside a step's model.py."""
        path = self.version_folder(step) / name
        text = json.dumps(value, ensure_ascii=False, indent=1)
        path.write_text(text + "\n", encoding="utf-8")
        return path


@contextmanager
def staged_model(repository: Path, model: str) -> Iterator[RepositoryWriter]:
    """Give a writer aside of the repository; publish what it wrote if nothing was raised.

    Args:
        repository: Folder of the Triton model repository; made if need be, and not left behind
            empty.
        model: Triton name of the model; folders of that name are replaced.
    """
    made = [folder for folder in (repository, *repository.parents) if not folder.exists()]
    repository.mkdir(parents=True, exist_ok=True)
    try:
        with staging_folder(staging_parent(repository), model) as staging:
            writer = RepositoryWriter(model, staging / NEW)
            writer.staging.mkdir()
            yield writer
            _publish(writer, repository, replaced=staging / OLD)
    except BaseException:
        for folder in made:
            with suppress(OSError):  # another export has written there meanwhile
                folder.rmdir()
        raise


def _publish(writer: RepositoryWriter, repository: Path, *, replaced: Path) -> None:
    """Put the new folders where the old ones were; what was there comes back if that fails."""
    replaced.mkdir()
    renamed: list[tuple[Path, Path]] = []
    try:
        for step in (TOKENIZER, ENCODER, ENSEMBLE):
            name = f"{writer.model}{step}"
            moves = [(writer.staging / name, repository / name)]
            if (repository / name).exists():
                moves.insert(0, (repository / name, replaced / name))
            for source, target in moves:
                source.rename(target)
                renamed.append((source, target))
    except BaseException:
        for source, target in reversed(renamed):
            target.rename(source)
        raise


def check_output(repository: Path, model: str) -> None:
    """Refuse a repository that cannot be written to, or where others' files would be replaced.

    Args:
        repository: Folder to be written to; it need not exist.
        model: Triton name of the model to be written.

    Raises:
        InvalidOption: It, or what it would lie in, is no folder or read-only; or a folder of the
            model's names is no earlier export of that name.
    """
    existing = _nearest_existing(repository)
    is_folder = existing.is_dir()
    if not is_folder or not os.access(existing, os.W_OK | os.X_OK):
        reason = "is read-only for this user" if is_folder else "is no folder"
        raise InvalidOption(f"{repository}: {existing} {reason}; choose another --output")
    if (repository / model / "1" / "card.json").is_file():
        return  # an export of that name, which is replaced
    for step in (ENSEMBLE, TOKENIZER, ENCODER):
        folder = repository / f"{model}{step}"
        if os.path.lexists(folder):
            raise InvalidOption(
                f"{folder} is there and is no export named {model!r}; choose another --name, or "
                "remove it"
            )


def check_disk(repository: Path, needed_bytes: int) -> None:
    """Refuse an export that would fill the disk.

    Args:
        repository: Folder to be written to; it need not exist.
        needed_bytes: Bytes of the weights.

    Raises:
        NotEnoughDisk: Less is free.
    """
    free = shutil.disk_usage(_nearest_existing(repository)).free
    needed = needed_bytes + _DISK_MARGIN_BYTES
    if free < needed:
        raise NotEnoughDisk(
            f"{repository}: the export needs {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are "
            "free; free some space there, or write to another folder"
        )


def _nearest_existing(path: Path) -> Path:
    # Path.exists raises where a folder on the way may not be looked into.
    return next(p for p in [path, *path.absolute().parents] if os.path.lexists(p))
