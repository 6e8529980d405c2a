"""A whole model with random weights of SFR-Embedding-Mistral's widths: ours and its peers' files.

The real weights are 14 GB, and what peers take of them does not fit into a small machine; a few
layers of them cost what as many of the model's cost.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lasttoken_export.checkpoint import Checkpoint, fetch_packaged_files, open_checkpoint
from lasttoken_perf.errors import UnknownWorkload
from lasttoken_perf.random_checkpoint import SFR_CONFIG, write_random_checkpoint

SENTENCEPIECE = "tokenizer.model"
_PACKAGED_TOKENIZER = {
    "mistral_common/data/tokenizer.model.v1": (
        "dadfd56d766715c61d2ef780a525ab43b8e6da4de6865bda3d95fdef5e134055"
    )
}
_BOS, _EOS = ("<s>", 1), ("</s>", 2)


def config_of_layers(layers: int | None, *, option: str) -> dict[str, Any]:
    """Return the configuration of SFR-Embedding-Mistral with so many layers.

    Args:
        layers: How many; None for all.
        option: The command's, for the message.

    Raises:
        UnknownWorkload: The model has fewer.
    """
    most = SFR_CONFIG["num_hidden_layers"]
    if layers is not None and not 1 <= layers <= most:
        raise UnknownWorkload(f"{option} is {layers}; the model has {most}")
    return SFR_CONFIG if layers is None else {**SFR_CONFIG, "num_hidden_layers": layers}


def write_sentencepiece(folder: Path, *, cache_folder: Path | None) -> None:
    """Write SFR-Embedding-Mistral's ``tokenizer.model``, which is Mistral's first."""
    packaged = fetch_packaged_files(
        "mistral-common", "1.13.1", _PACKAGED_TOKENIZER, cache_folder=cache_folder
    )
    shutil.copy(packaged / "tokenizer.model.v1", folder / SENTENCEPIECE)


def write_random_model(
    folder: Path,
    config: Mapping[str, Any],
    *,
    cache_folder: Path | None,
    say: Callable[[str], None],
) -> Checkpoint:
    """Write a folder as the hub has it: weights, configuration, and the tokenizer in both forms.

    Args:
        folder: Where to; created.
        config: Of `config_of_layers`.
        cache_folder: Where the tokenizer is kept; None for the default.
        say: Told each file of weights.

    Returns:
        The folder, opened.
    """
    write_random_checkpoint(folder, {**config, "torch_dtype": "float16"}, seed=1, say=say)
    write_sentencepiece(folder, cache_folder=cache_folder)
    checkpoint = open_checkpoint(folder)
    tokenizer = json.loads(checkpoint.tokenizer_json())
    (folder / "tokenizer.json").write_text(
        json.dumps({**tokenizer, "post_processor": _template()}), encoding="utf-8"
    )
    about = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": _BOS[0],
             "eos_token": _EOS[0], "pad_token": _EOS[0], "unk_token": "<unk>",
             "model_max_length": 4096}  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about), encoding="utf-8")
    return open_checkpoint(folder)


def _template() -> dict[str, Any]:
    """Return what puts BOS before and EOS behind a text, for those who do it by the file."""
    text = {"Sequence": {"id": "A", "type_id": 0}}
    around = [{"SpecialToken": {"id": token, "type_id": 0}} for token, _ in (_BOS, _EOS)]
    return {
        "type": "TemplateProcessing",
        "single": [around[0], text, around[1]],
        "pair": [around[0], text, around[1]],
        "special_tokens": {
            token: {"id": token, "ids": [number], "tokens": [token]}
            for token, number in (_BOS, _EOS)
        },
    }
