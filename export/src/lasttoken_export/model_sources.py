"""Where the sources of the three Triton models are: in the package, or in the workspace."""

from __future__ import annotations

from pathlib import Path

SOURCE_MODEL = "sfr_embedding_mistral"
"""The model that the sources are named for; an exported repository bears its own model's name."""

ENSEMBLE = ""
TOKENIZER = "_tokenizer"
ENCODER = "_encoder"
"""What the names of the three models end in, after the model's own name."""


def model_sources() -> Path:
    """Return the folder that holds ``sfr_embedding_mistral*/``.

    Raises:
        FileNotFoundError: The package was installed without them.
    """
    here = Path(__file__).resolve().parent
    for folder in (here / "model_repository", here.parents[2] / "model_repository"):
        if (folder / SOURCE_MODEL / "config.pbtxt").is_file():
            return folder
    raise FileNotFoundError(
        f"no sources of the Triton models beside {here}; install lasttoken-export from its wheel "
        "or from a checkout of the whole project"
    )
