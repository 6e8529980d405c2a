"""Names of tensors in GGUF files, and what Hugging Face calls the same.

Source: https://github.com/ggml-org/llama.cpp/blob/master/gguf-py/gguf/tensor_mapping.py
"""

from __future__ import annotations

from dataclasses import dataclass

from lasttoken_export.errors import UnexpectedTensor


@dataclass(frozen=True, slots=True, kw_only=True)
class _Names:
    """Stems of the names of one architecture.

    Attributes:
        outer: Outside of the layers.
        layer: What stands before a layer's number.
        inner: Within a layer, behind ``blk.N.``.
        ignored: Whole names that an embedder has no use for.
    """

    outer: dict[str, str]
    layer: str
    inner: dict[str, str]
    ignored: tuple[str, ...] = ()


_DECODER = _Names(
    outer={"token_embd": "embed_tokens", "output_norm": "norm"},
    layer="layers",
    inner={
        "attn_norm": "input_layernorm",
        "attn_q": "self_attn.q_proj",
        "attn_q_norm": "self_attn.q_norm",
        "attn_k_norm": "self_attn.k_norm",
        "attn_k": "self_attn.k_proj",
        "attn_v": "self_attn.v_proj",
        "attn_output": "self_attn.o_proj",
        "ffn_norm": "post_attention_layernorm",
        "ffn_gate": "mlp.gate_proj",
        "ffn_up": "mlp.up_proj",
        "ffn_down": "mlp.down_proj",
    },
    # The language model's head; and frequencies, which `DecoderConfig` refuses where they scale.
    ignored=("output.weight", "rope_freqs.weight"),
)
_BERT = _Names(
    outer={
        "token_embd": "embeddings.word_embeddings",
        "position_embd": "embeddings.position_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "token_embd_norm": "embeddings.LayerNorm",
    },
    layer="encoder.layer",
    inner={
        "attn_q": "attention.self.query",
        "attn_k": "attention.self.key",
        "attn_v": "attention.self.value",
        "attn_output": "attention.output.dense",
        "attn_output_norm": "attention.output.LayerNorm",
        "ffn_up": "intermediate.dense",
        "ffn_down": "output.dense",
        "layer_output_norm": "output.LayerNorm",
    },
)
_NOMIC_BERT = _Names(
    outer={
        "token_embd": "embeddings.word_embeddings",
        "token_types": "embeddings.token_type_embeddings",
        "token_embd_norm": "emb_ln",
    },
    layer="encoder.layers",
    inner={
        "attn_qkv": "attn.Wqkv",
        "attn_output": "attn.out_proj",
        "attn_output_norm": "norm1",
        "ffn_up": "mlp.fc11",
        "ffn_gate": "mlp.fc12",
        "ffn_down": "mlp.fc2",
        "layer_output_norm": "norm2",
    },
)
_BY_ARCHITECTURE = {"bert": _BERT, "nomic-bert": _NOMIC_BERT}
"""All others are decoders."""


def canonical_gguf_name(name: str, architecture: str) -> str | None:
    """Return the headless Hugging Face name of a GGUF tensor; None for one that is not needed.

    Args:
        name: Name in the file.
        architecture: The file's ``general.architecture``.

    Raises:
        UnexpectedTensor: The name is not one of the architecture's.
    """
    names = _BY_ARCHITECTURE.get(architecture, _DECODER)
    if name in names.ignored:
        return None
    stem, _, ending = name.rpartition(".")
    if ending in ("weight", "bias"):
        if stem in names.outer:
            return f"{names.outer[stem]}.{ending}"
        block, _, part = stem.rpartition(".")
        if part in names.inner and block.startswith("blk.") and block[4:].isdigit():
            return f"{names.layer}.{block[4:]}.{names.inner[part]}.{ending}"
    raise UnexpectedTensor(
        f"the GGUF tensor {name!r} is not one of the architecture {architecture!r}"
    )
