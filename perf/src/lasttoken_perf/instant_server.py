"""A real Triton whose encoder costs nothing, so that what is left is everything else.

The ensemble and the tokenizer step are those of an exported model; only the encoder step is
replaced, by a table of unit vectors of the size asked for. A text always has the same vector.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lasttoken.local import LocalTriton
from lasttoken_export.catalogue import entry as catalogue_entry
from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model

_DONOR = "smollm2-135m"
_ENCODER_SOURCE = Path(__file__).with_name("instant_encoder.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstantServer:
    """Where an instant server is reached.

    Attributes:
        server: The running Triton.
        grpc_url: `host:port` of its gRPC service.
        model: Triton's name of the ensemble.
        dimensions: Elements of a vector.
    """

    server: LocalTriton
    grpc_url: str
    model: str
    dimensions: int


@contextmanager
def instant_server(
    dimensions: int, *, repository: Path | None = None, cache_folder: Path | None = None
) -> Iterator[InstantServer]:
    """Serve an instant encoder for as long as the block lasts.

    Args:
        dimensions: Elements of a vector, such as 384 or 4096.
        repository: Written by `write_instant_repository` before; None writes one for this block.
        cache_folder: Where packaged weights and Triton are kept; None for `~/.cache/lasttoken`.
    """
    with tempfile.TemporaryDirectory(prefix="lasttoken-instant.") as folder:
        if repository is None:
            repository = Path(folder) / "repository"
            write_instant_repository(repository, dimensions, cache_folder=cache_folder)
        with LocalTriton(repository, cache_folder=cache_folder) as server:
            (model,) = server.models()
            yield InstantServer(
                server=server, grpc_url=server.grpc_url, model=model, dimensions=dimensions
            )


def write_instant_repository(
    folder: Path, dimensions: int, *, donor: Path | None = None, cache_folder: Path | None = None
) -> str:
    """Write a Triton repository with one ensemble whose encoder is instant.

    Args:
        folder: Where to write; must not exist.
        dimensions: Elements of a vector.
        donor: An exported repository with one model, whose ensemble and tokenizer are copied;
            None exports the demonstration model for it (its weights are not kept).
        cache_folder: Where packaged weights are kept.

    Returns:
        Triton's name of the ensemble.
    """
    with tempfile.TemporaryDirectory(prefix="lasttoken-donor.") as exported:
        if donor is None:
            checkpoint = open_checkpoint(catalogue_entry(_DONOR).source, cache_folder=cache_folder)
            donor = Path(exported)
            export_model(checkpoint, catalogue_entry(_DONOR), ExportOptions(output=donor))
        (encoder,) = (path for path in donor.iterdir() if path.name.endswith("_encoder"))
        model = encoder.name.removesuffix("_encoder")
        for name in (model, f"{model}_tokenizer"):
            shutil.copytree(donor / name, folder / name)
        _set_dimensions(donor / model / "config.pbtxt", folder / model, dimensions)
        _set_dimensions(encoder / "config.pbtxt", folder / encoder.name, dimensions)
        (folder / encoder.name / "1").mkdir()
        shutil.copyfile(_ENCODER_SOURCE, folder / encoder.name / "1" / "model.py")
        _forget_digests(folder / model / "1" / "card.json", encoder.name)
    return model


def _forget_digests(card_file: Path, step: str) -> None:
    """Take the files that have been replaced off the card, or they would count as tampered with."""
    card = json.loads(card_file.read_text(encoding="utf-8"))
    card["sha256"] = {
        file: digest
        for file, digest in card["sha256"].items()
        if Path(file).parts[0] != step and Path(file).name != "config.pbtxt"
    }
    card_file.write_text(json.dumps(card), encoding="utf-8")


def _set_dimensions(source: Path, folder: Path, dimensions: int) -> None:
    config = text_format.Parse(source.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    (output,) = (output for output in config.output if output.name == "EMBEDDING")
    output.dims[:] = [dimensions]
    folder.mkdir(exist_ok=True)
    (folder / "config.pbtxt").write_text(text_format.MessageToString(config), encoding="utf-8")
