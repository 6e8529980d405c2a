"""What a Triton model repository holds, read from its config.pbtxt files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from lasttoken.errors import RepositoryInvalid


@dataclass(frozen=True, slots=True, kw_only=True)
class RepositoryModel:
    """One model of a repository.

    Attributes:
        name: Triton's name, equal to the folder's.
        is_ensemble: Whether it is an ensemble, which is what clients call.
        inputs: Names of its input tensors.
    """

    name: str
    is_ensemble: bool
    inputs: tuple[str, ...]


def read_repository(repository: Path) -> tuple[RepositoryModel, ...]:
    """Read every model configuration of a repository, in order of the names.

    Raises:
        RepositoryInvalid: No such folder, no model in it, or a config.pbtxt that cannot be read.
    """
    if not repository.is_dir():
        raise RepositoryInvalid(f"there is no model repository folder {str(repository)!r}")
    models = []
    for path in sorted(repository.glob("*/config.pbtxt")):
        config = model_config_pb2.ModelConfig()
        try:
            text_format.Parse(path.read_text(encoding="utf-8"), config)
        except (OSError, UnicodeDecodeError, text_format.ParseError) as error:
            raise RepositoryInvalid(f"cannot read {str(path)!r}: {error}") from error
        name = config.name or path.parent.name
        if name != path.parent.name:
            raise RepositoryInvalid(
                f"{str(path)!r} names the model {name!r}; Triton wants the name of its folder, "
                f"{path.parent.name!r}"
            )
        models.append(
            RepositoryModel(
                name=name,
                is_ensemble=config.platform == "ensemble" or config.HasField("ensemble_scheduling"),
                inputs=tuple(tensor.name for tensor in config.input),
            )
        )
    if not models:
        raise RepositoryInvalid(
            f"{str(repository)!r} holds no model: expected <model>/config.pbtxt below it "
            "(lasttoken-export writes such folders)"
        )
    return tuple(models)
