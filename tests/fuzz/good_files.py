"""Good files of every kind, small: what is damaged."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import gguf

from lasttoken_export.catalogue import load_catalogue
from lasttoken_export.model_sources import model_sources
from lasttoken_export.tokenizer.sentencepiece_file import _model_class
from unit.export.checkpoints import CONFIG, tensors, write_folder, write_gguf
from unit.tokenizer.small import byte_level_tokenizer, contract_data

TINY = {**CONFIG, "num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 32}
KINDS = gguf.GGMLQuantizationType

CARD = {
    "model": "m", "source": "s", "revision": None, "licence": {"id": "x", "note": ""},
    "precision": "fp32", "runtime": "onnxruntime", "pooling": "mean", "dimensions": 32,
    "matryoshka": {"dimensions": [16]}, "max_length": 64, "opening_ids": [1], "closing_ids": [2],
    "vocab_size": 40, "prompts": ["query"], "default_prompt_name": None,
    "sha256": {"m_encoder/1/encoder.onnx": "00"}, "checks": {}, "quality": {"status": "measured"},
}  # fmt: skip


def gguf_files(folder: Path) -> list[bytes]:
    """Of two kinds of weights, and the encoders that llama.cpp's own converter wrote."""
    vocabulary = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
    }
    made = [
        write_gguf(folder / f"{kind.name}.gguf", kind=kind, **vocabulary).read_bytes()
        for kind in (KINDS.F32, KINDS.Q4_0)
    ]
    converted = Path(__file__).parents[1] / "parity" / "llama_cpp"
    return [*made, *((converted / f"tiny-{name}.gguf").read_bytes() for name in ("bert", "Q4_K_M"))]


def safetensors_file(folder: Path) -> bytes:
    """Of `TINY`."""
    write_folder(folder / "whole", tensors(TINY), config=TINY)
    return (folder / "whole" / "model.safetensors").read_bytes()


def sentencepiece_file() -> bytes:
    """With byte fallback, as Mistral's."""
    model = _model_class()()
    model.trainer_spec.model_type = 2
    model.trainer_spec.byte_fallback = True
    model.normalizer_spec.remove_extra_whitespaces = False
    pieces = [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{b:02X}>", 6) for b in range(256))]
    pieces += [("▁", 1), ("a", 1), ("b", 1), ("ab", 1), ("▁ab", 1)]
    for place, (text, kind) in enumerate(pieces):
        model.pieces.add(piece=text, score=-float(place), type=kind)
    data: bytes = model.SerializeToString()
    return data


def json_values() -> dict[str, Any]:
    """By the name of their reader."""
    index = {"weight_map": {"norm.weight": "model-1.safetensors"}}
    return {
        "safetensors-index": index,
        "config": TINY,
        "tokenizer-json": json.loads(byte_level_tokenizer()),
        "contract": contract_data(),
        "modules": {
            "modules.json": [
                {"idx": 0, "name": "0", "path": "", "type": "x.Transformer"},
                {"idx": 1, "name": "1", "path": "1_Pooling", "type": "x.Pooling"},
            ],
            "1_Pooling/config.json": {"pooling_mode": "lasttoken"},
            "config_sentence_transformers.json": {
                "prompts": {"query": "Q: "}, "default_prompt_name": "query",
                "similarity_fn_name": "cosine",
            },
            "sentence_bert_config.json": {"max_seq_length": 12, "do_lower_case": False},
            "tokenizer_config.json": {"model_max_length": 64},
        },
        "card-of-a-server": CARD,
        "card-of-an-export": CARD,
        "card-of-a-repository": CARD,
    }  # fmt: skip


def catalogue_entries() -> list[Any]:
    """The project's own."""
    folder = resources.files("lasttoken_export") / "catalogue_data"
    return [json.loads((folder / f"{name}.json").read_text()) for name in sorted(load_catalogue())]


def config_pbtxt() -> bytes:
    """Of the project's own ensemble, under the name of a folder `m`."""
    text = (model_sources() / "sfr_embedding_mistral" / "config.pbtxt").read_text()
    return text.replace('name: "sfr_embedding_mistral"', 'name: "m"', 1).encode()
