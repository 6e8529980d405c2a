"""What a Triton model repository holds, read from its config.pbtxt files."""

from __future__ import annotations

from collections.abc import Collection, Sequence
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
        is_ensemble: Whether it is an ensemble.
        inputs: Names of its input tensors.
        backend: Triton's backend that runs it; "" for an ensemble, or where Triton shall find out.
        on_gpu: Whether it computes on a GPU.
    """

    name: str
    is_ensemble: bool
    inputs: tuple[str, ...]
    backend: str = ""
    on_gpu: bool = False

    @property
    def takes_text(self) -> bool:
        """Whether it is one that clients of this package call; others may stand beside it."""
        return self.is_ensemble and "TEXT" in self.inputs


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
                backend=config.backend,
                on_gpu=_is_on_gpu(config),
            )
        )
    if not models:
        raise RepositoryInvalid(
            f"{str(repository)!r} holds no model: expected <model>/config.pbtxt below it "
            "(lasttoken-export writes such folders)"
        )
    return tuple(models)


def check_backends(models: Sequence[RepositoryModel], backends: Collection[str]) -> None:
    """Refuse a model that a Triton cannot load for want of its backend.

    Args:
        models: Of a repository.
        backends: That the Triton has.

    Raises:
        RepositoryInvalid: It has not that of a model.
    """
    for model in models:
        if model.backend and model.backend not in backends:
            raise RepositoryInvalid(
                f"{model.name!r} is for Triton's backend {model.backend!r}, and the Triton of this "
                f"package has {', '.join(sorted(backends))} alone; serve the repository with a "
                "Triton that has it (one that is on the PATH is taken), or export the model again "
                "without --encoder native"
            )


def _is_on_gpu(config: model_config_pb2.ModelConfig) -> bool:
    # An encoder in Python opens its device itself: to Triton its instances are of the CPU.
    runtime = config.parameters["runtime"].string_value if "runtime" in config.parameters else ""
    of_gpu = model_config_pb2.ModelInstanceGroup.KIND_GPU
    return runtime not in ("", "onnxruntime-cpu") or any(
        group.kind == of_gpu for group in config.instance_group
    )
