"""The contract of a user's own model, read from its sentence-transformers files.

What these files do not settle is refused, never guessed: the pooled token decides the vector.
Files: modules.json, ``<n>_Pooling/config.json``, sentence_bert_config.json,
config_sentence_transformers.json and tokenizer.json.

Source: https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from lasttoken_export.catalogue import CatalogueEntry, Licence
from lasttoken_export.checkpoint import ModelFiles
from lasttoken_export.checkpoint.base import ServedConfig
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import AmbiguousModel, CorruptFile

_POOLINGS = {"cls": "cls", "mean": "mean", "lasttoken": "last_token"}
_OLD_POOLING_KEYS = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_WAY_OUT = "name a catalogue entry that it is served like: --like NAME"
_GOLDEN_TEXTS = ("", "How to bake a chocolate cake", "  two  spaces, 35°F\n\t日本語 🍰")


def entry_of_folder(folder: Path, checkpoint: ModelFiles) -> CatalogueEntry:
    """Build the entry of a model that is not in the catalogue.

    Args:
        folder: The Hugging Face folder.
        checkpoint: The same, opened.

    Raises:
        AmbiguousModel: Its files leave open how a text becomes a vector.
        CorruptFile: One of them is not JSON.
    """
    config = checkpoint.config
    location = Path(checkpoint.location).resolve().name.lower()
    name = re.sub(r"[^a-z0-9.]+", "-", location).strip("-.") or "model"
    settings = _read(folder / "config_sentence_transformers.json") or {}
    model_config = _read(folder / "config.json") or {}
    decoder = isinstance(config, DecoderConfig)
    causal = decoder and model_config.get("is_causal") is not False
    _refuse_code_of_its_own(folder, config, model_config)
    _refuse_other_vectors(folder, config, settings)
    family = config.architecture
    return CatalogueEntry(
        name=name,
        source={"kind": "hub", "id": checkpoint.location, "revision": checkpoint.revision},
        licence=Licence(id="unknown", note="see the model's own card"),
        pooling=_pooling(folder),
        layer_norm=False,
        dimensions=config.hidden_size,
        matryoshka=None,
        attention="causal" if causal else "bidirectional",
        # Known to leave the range of float16.
        precisions=("fp32", "bf16") if "qwen" in family.lower() else ("fp32", "fp16", "bf16"),
        tokenizer=_tokenizer_contract(name, folder, checkpoint, settings),
        quality=(),
        golden_scores=None,
        notes="Read from the files of its folder.",
    )


def _refuse_code_of_its_own(
    folder: Path, config: ServedConfig, model_config: Mapping[str, Any]
) -> None:
    """Refuse a model whose own code may attend in other directions than its architecture does.

    NomicBERT's own code is what its graph was built from.
    """
    has_code = "AutoModel" in (model_config.get("auto_map") or {})
    says = config.architecture == "NomicBertModel" or (
        isinstance(config, DecoderConfig) and "is_causal" in model_config
    )
    if has_code and not says:
        raise AmbiguousModel(
            f"{folder} brings code of its own (auto_map of config.json), which is never run and "
            f"may attend in another direction than {config.architecture}; {_WAY_OUT}"
        )


def _refuse_other_vectors(folder: Path, config: ServedConfig, settings: Mapping[str, Any]) -> None:
    """Refuse vectors that are meant to be cut, or compared without being normalised."""
    modules = [str(module["type"]) for module in _read(folder / "modules.json") or []]
    similarity = settings.get("similarity_fn_name")
    if similarity not in (None, "cosine") and not any("Normalize" in kind for kind in modules):
        raise AmbiguousModel(
            f"{folder} compares vectors of any length by {similarity!r}; only L2-normalised "
            f"vectors are served; {_WAY_OUT}"
        )
    size = settings.get("truncate_dim")
    if size is not None and size != config.hidden_size:
        raise AmbiguousModel(
            f"{folder} cuts its vectors to {size!r} elements, the server gives all "
            f"{config.hidden_size}: ask the client for fewer, and {_WAY_OUT}"
        )


def _pooling(folder: Path) -> str:
    modules = _read(folder / "modules.json")
    if modules is None:
        raise AmbiguousModel(
            f"{folder} has no modules.json, so its pooling is not known; {_WAY_OUT}"
        )
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise AmbiguousModel(
            f"{folder} has the modules {', '.join(kinds)}; only Transformer, Pooling and Normalize "
            "are served"
        )
    config = _read(folder / str(modules[1]["path"]) / "config.json") or {}
    if "pooling_mode" in config:
        value = config["pooling_mode"]
        modes = list(value) if isinstance(value, list) else [value]
    else:
        modes = [mode for key, mode in _OLD_POOLING_KEYS.items() if config.get(key)]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise AmbiguousModel(
            f"{folder} pools by {modes!r}; exactly one of {', '.join(_POOLINGS)} is served"
        )
    if config.get("include_prompt") is False:
        raise AmbiguousModel(f"{folder} leaves the prompt out of the pooling, which is not served")
    return _POOLINGS[modes[0]]


def _tokenizer_contract(
    name: str, folder: Path, checkpoint: ModelFiles, settings: Mapping[str, Any]
) -> dict[str, Any]:
    tokenizer_json = checkpoint.tokenizer_json()
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_truncation()
    tokenizer.no_padding()
    before, behind = _special_tokens(folder, tokenizer)
    lowers = (_read(folder / "sentence_bert_config.json") or {}).get("do_lower_case")
    if lowers and tokenizer.encode("A B").ids != tokenizer.encode("a b").ids:
        raise AmbiguousModel(
            f"{folder} lowers its texts before they are tokenized, which its tokenizer.json does "
            f"not: put a Lowercase normalizer into that, or {_WAY_OUT}"
        )
    if _pooling(folder) == "last_token" and not behind:
        raise AmbiguousModel(
            f"{folder} pools the last token and its tokenizer puts none behind the text; published "
            f"files often lack the EOS that a model was trained with: {_WAY_OUT}"
        )
    prompts = {
        str(key): f"{prompt}{{text}}" for key, prompt in (settings.get("prompts") or {}).items()
    }
    return {
        "model": name,
        "sequence": [*before, "$A", *behind],
        "special_tokens": {token: tokenizer.token_to_id(token) for token in {*before, *behind}},
        "max_length": _max_length(folder, checkpoint.config),
        "prompts": prompts,
        "default_prompt_name": settings.get("default_prompt_name"),
        "instruction_template": None,
        # The file's own behaviour: the server must reproduce it.
        "golden": [
            {"text": text, "prompt_name": None, "ids": tokenizer.encode(text).ids}
            for text in _GOLDEN_TEXTS
        ]
        if settings.get("default_prompt_name") is None
        else [
            {
                "text": text,
                "prompt_name": key,
                "ids": tokenizer.encode(template.replace("{text}", text)).ids,
            }
            for key, template in prompts.items()
            for text in _GOLDEN_TEXTS
        ],
    }


def _special_tokens(folder: Path, tokenizer: Tokenizer) -> tuple[list[str], list[str]]:
    """Tokens that the tokenizer puts before and behind a text, seen from what it does."""
    bare = tokenizer.encode("a", add_special_tokens=False).ids
    full = tokenizer.encode("a").ids
    for start in range(len(full) - len(bare) + 1):
        if full[start : start + len(bare)] == bare:
            before, behind = full[:start], full[start + len(bare) :]
            tokens = [[str(tokenizer.id_to_token(i)) for i in ids] for ids in (before, behind)]
            return tokens[0], tokens[1]
    raise AmbiguousModel(
        f"the tokenizer of {folder} changes a text when it adds special tokens; {_WAY_OUT}"
    )


def _max_length(folder: Path, config: ServedConfig) -> int:
    stated = (_read(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    stated = stated or (_read(folder / "tokenizer_config.json") or {}).get("model_max_length")
    limits = [config.max_positions, config.sliding_window or config.max_positions]
    if isinstance(stated, int):
        limits.append(stated)
    return min(limits)


def _read(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptFile(f"{path} is not JSON: {error}; download it again") from None
