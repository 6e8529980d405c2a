"""The weights that everyone is given: a model's own, or random ones of its widths."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint import Checkpoint, open_checkpoint
from lasttoken_export.errors import InvalidOption
from lasttoken_perf.gguf_writing import write_gguf
from lasttoken_perf.hf_folder import gguf_of
from lasttoken_perf.random_model import SENTENCEPIECE, config_of_layers, write_random_model

RANDOM_MODEL = "sfr-embedding-mistral"


def open_weights(
    entry: CatalogueEntry,
    folder: Path,
    *,
    random_layers: int | None,
    for_llama_cpp: bool,
    cache_folder: Path | None,
    say: Callable[[str], None],
) -> tuple[Checkpoint, Path | None]:
    """Return the weights, and a GGUF file of them where there is one.

    Args:
        entry: The model.
        folder: Where random weights are written.
        random_layers: So many layers of random weights in place of the model's own; None for these.
        for_llama_cpp: Whether a GGUF file of random weights is wanted.
        cache_folder: Where weights are kept; None for the default.
        say: Told what is being done.

    Raises:
        InvalidOption: Random layers of another model than `RANDOM_MODEL`.
        UnknownWorkload: More of them than it has.
    """
    if random_layers is None:
        checkpoint = open_checkpoint(entry.source, cache_folder=cache_folder)
        return checkpoint, gguf_of(entry, cache_folder=cache_folder)
    if entry.name != RANDOM_MODEL:
        raise InvalidOption(
            f"random layers are of {RANDOM_MODEL}'s shape, and the model is {entry.name}: add "
            f"--model {RANDOM_MODEL}"
        )
    config = config_of_layers(random_layers, option="--random-layers")
    made = folder / "random"
    checkpoint = write_random_model(made, config, cache_folder=cache_folder, say=say)
    if not for_llama_cpp:
        return checkpoint, None
    gguf = folder / "random.gguf"
    say(f"writing {gguf.name}")
    write_gguf(checkpoint, made / SENTENCEPIECE, gguf)
    return checkpoint, gguf
