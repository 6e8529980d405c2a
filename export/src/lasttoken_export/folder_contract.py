"""The contract of a user's own model, read from its sentence-transformers files.

What these files do not settle is refused, never guessed: the pooled token decides the vector.
Files: modules.json, ``<n>_Pooling/config.json``, sentence_bert_config.json,
config_sentence_transformers.json and tokenizer.json.

Source: https://sbert.net/docs/sentence_transformer/usage/custom_models.html
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from tokenizers import Tokenizer

from lasttoken_export.catalogue import CatalogueEntry, Licence
from lasttoken_export.checkpoint import ModelFiles
from lasttoken_export.checkpoint.base import ServedConfig, name_in
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import AmbiguousModel, CorruptFile
from lasttoken_export.json_file import read_json, read_object

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
_LONGEST_PATH = 60
"""Characters of a module's folder, which is its number and its kind."""
UNKNOWN_LICENCE = Licence(id="unknown", note="see the model's own card")
_GOLDEN_TEXTS = ("", "How to bake a chocolate cake", "  two  spaces, 35°F\n\t日本語 🍰")


def entry_of_folder(folder: Path, checkpoint: ModelFiles) -> CatalogueEntry:
    """Build the entry of a model that is not in the catalogue.

    Args:
        folder: The Hugging Face folder.
        checkpoint: The same, opened.

    Raises:
        AmbiguousModel: Its files leave open how a text becomes a vector.
        CorruptFile: One of them is not JSON of the known form, or points out of the folder.
    """
    config = checkpoint.config
    name = name_in(checkpoint.location)
    settings = _settings(folder / "config_sentence_transformers.json")
    model_config = _settings(folder / "config.json")
    decoder = isinstance(config, DecoderConfig)
    causal = decoder and model_config.get("is_causal") is not False
    _refuse_code_of_its_own(folder, config, model_config)
    _refuse_other_vectors(folder, config, settings)
    family = config.architecture
    return CatalogueEntry(
        name=name,
        source={"kind": "hub", "id": checkpoint.location, "revision": checkpoint.revision},
        licence=UNKNOWN_LICENCE,
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
    modules = [module["type"] for module in _modules(folder) or []]
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
    modules = _modules(folder)
    if modules is None:
        raise AmbiguousModel(
            f"{folder} has no modules.json, so its pooling is not known; {_WAY_OUT}"
        )
    kinds = [module["type"].rpartition(".")[2] for module in modules]
    if kinds[:2] != ["Transformer", "Pooling"] or kinds[2:] not in ([], ["Normalize"]):
        raise AmbiguousModel(
            f"{folder} has the modules {', '.join(kinds)}; only Transformer, Pooling and Normalize "
            "are served"
        )
    config = _settings(folder / modules[1]["path"] / "config.json")
    if "pooling_mode" in config:
        value = config["pooling_mode"]
        modes = list(value) if isinstance(value, list) else [value]
    else:
        modes = [mode for key, mode in _OLD_POOLING_KEYS.items() if config.get(key)]
    if len(modes) != 1 or str(modes[0]) not in _POOLINGS:
        raise AmbiguousModel(
            f"{folder} pools by {modes!r}; exactly one of {', '.join(_POOLINGS)} is served"
        )
    if config.get("include_prompt") is False:
        raise AmbiguousModel(f"{folder} leaves the prompt out of the pooling, which is not served")
    return _POOLINGS[str(modes[0])]


def _tokenizer_contract(
    name: str, folder: Path, checkpoint: ModelFiles, settings: Mapping[str, Any]
) -> dict[str, Any]:
    tokenizer_json = checkpoint.tokenizer_json()
    try:
        tokenizer = Tokenizer.from_str(tokenizer_json)
    except Exception as error:  # noqa: BLE001 - the library raises bare Exception
        raise CorruptFile(f"the tokenizer of {folder} cannot be read: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    before, behind = _special_tokens(folder, tokenizer)
    lowers = _settings(folder / "sentence_bert_config.json").get("do_lower_case")
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
    named = settings.get("prompts") or {}
    default = settings.get("default_prompt_name")
    if not isinstance(named, dict) or not (default is None or default in list(named)):
        raise CorruptFile(
            f"config_sentence_transformers.json of {folder} has the prompts {named!r} and of them "
            f"the default {default!r}; download it again"
        )
    prompts = {str(key): f"{prompt}{{text}}" for key, prompt in named.items()}
    return {
        "model": name,
        "sequence": [*before, "$A", *behind],
        "special_tokens": {token: tokenizer.token_to_id(token) for token in {*before, *behind}},
        "max_length": _max_length(folder, checkpoint.config),
        "prompts": prompts,
        "default_prompt_name": default,
        "instruction_template": None,
        # The file's own behaviour: the server must reproduce it.
        "golden": [
            {"text": text, "prompt_name": None, "ids": tokenizer.encode(text).ids}
            for text in _GOLDEN_TEXTS
        ]
        if default is None
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
    stated = _settings(folder / "sentence_bert_config.json").get("max_seq_length")
    stated = stated or _settings(folder / "tokenizer_config.json").get("model_max_length")
    limits = [config.max_positions, config.sliding_window or config.max_positions]
    if isinstance(stated, int):
        limits.append(stated)
    return min(limits)


def _settings(path: Path) -> dict[str, Any]:
    return read_object(path) if path.is_file() else {}


def _modules(folder: Path) -> list[dict[str, str]] | None:
    """Type and path of each module; a path that leads out of the folder is refused."""
    path = folder / "modules.json"
    if not path.is_file():
        return None
    modules = read_json(path)
    if not isinstance(modules, list) or not all(
        isinstance(module, dict)
        and isinstance(module.get("type"), str)
        and isinstance(module.get("path"), str)
        for module in modules
    ):
        raise CorruptFile(f"{path} is no list of modules with type and path; download it again")
    for module in modules:
        parts = PurePosixPath(module["path"])
        strange = len(module["path"]) > _LONGEST_PATH or not module["path"].isprintable()
        if parts.is_absolute() or ".." in parts.parts or strange:
            raise CorruptFile(f"{path} names a module outside its folder: {module['path']!r}")
    return modules
