"""Tiny checkpoints, written as the real ones are."""

from __future__ import annotations

import json

import gguf
import numpy as np
from safetensors.numpy import save_file

from lasttoken_export.decoder_config import DecoderConfig
from unit.tokenizer.small import byte_level_tokenizer

CONFIG = {
    "architectures": ["MistralModel"],
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 64,
    "vocab_size": 40,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "sliding_window": None,
    "hidden_act": "silu",
}


WIDE_CONFIG = {
    **CONFIG,
    "hidden_size": 256,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 512,
    "vocab_size": 259,
}
"""Heads as large as TensorRT fuses, and the vocabulary of the byte-level tokenizer."""


def tensors(config=CONFIG, dtype=np.float32):
    random = np.random.default_rng(0)
    shapes = DecoderConfig.from_hugging_face(config).tensor_shapes()
    return {name: random.normal(size=shape).astype(dtype) for name, shape in shapes.items()}


def write_folder(folder, weights=None, *, config=CONFIG, prefix="", shards=1):
    """Write config.json and safetensors, in shards with an index or in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    weights = {prefix + name: array for name, array in (weights or tensors()).items()}
    if shards == 1:
        save_file(weights, folder / "model.safetensors")
        return folder
    names = sorted(weights)
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: weights[name] for name in part}, folder / file)
        weight_map |= dict.fromkeys(part, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


def write_wide_folder(folder):
    """Write a checkpoint of WIDE_CONFIG, small weights and a tokenizer."""
    weights = {name: array * np.float32(0.05) for name, array in tensors(WIDE_CONFIG).items()}
    write_folder(folder, weights, config=WIDE_CONFIG)
    (folder / "tokenizer.json").write_text(byte_level_tokenizer())
    return folder


_GGUF_NAMES = {
    "embed_tokens": "token_embd",
    "norm": "output_norm",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def permute(weight, heads):
    """What llama.cpp's converter does to queries and keys."""
    rows, columns = weight.shape
    return (
        weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)
    )


def write_gguf(
    path, weights=None, *, kind=gguf.GGMLQuantizationType.F32, skip=(), architecture="llama", **more
):
    """Write a GGUF file of the tiny shape; matrices are quantised as ``kind``."""
    writer = gguf.GGUFWriter(path, architecture)
    values = {
        f"{architecture}.block_count": 2,
        f"{architecture}.context_length": 64,
        f"{architecture}.embedding_length": 32,
        f"{architecture}.feed_forward_length": 64,
        f"{architecture}.attention.head_count": 4,
        f"{architecture}.attention.head_count_kv": 2,
        **more,
    }
    for key, value in values.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        else:
            writer.add_uint32(key, value)
    writer.add_float32(f"{architecture}.attention.layer_norm_rms_epsilon", 1e-5)
    writer.add_float32(f"{architecture}.rope.freq_base", 10000.0)
    for name, array in (weights or tensors()).items():
        stem, _, ending = name.rpartition(".")
        prefix, _, part = stem.removeprefix("layers.").partition(".")
        gguf_name = f"blk.{prefix}.{_GGUF_NAMES[part]}" if part else _GGUF_NAMES[stem]
        if gguf_name in skip:
            continue
        if architecture == "llama" and part in ("self_attn.q_proj", "self_attn.k_proj"):
            array = permute(array, 4 if "q_proj" in part else 2)
        if array.ndim == 1 or kind == gguf.GGMLQuantizationType.F32:
            writer.add_tensor(f"{gguf_name}.{ending}", np.ascontiguousarray(array))
        else:
            quantised = gguf.quantize(np.ascontiguousarray(array), kind)
            writer.add_tensor(f"{gguf_name}.{ending}", quantised, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
