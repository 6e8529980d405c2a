"""Writes a decoder as a GGUF file, so that llama.cpp loads the same weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
from numpy.typing import NDArray

from lasttoken_export.checkpoint import Checkpoint
from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.tokenizer.sentencepiece_file import sentencepiece_pieces

_BOS, _EOS = "<s>", "</s>"


def write_gguf(checkpoint: Checkpoint, sentencepiece: Path, file: Path) -> None:
    """Write a decoder of Llama's and Mistral's kind, its matrices in float16, its norms in float32.

    Texts are to begin with BOS and to end with EOS, as SFR-Embedding-Mistral wants them.

    Args:
        checkpoint: The weights.
        sentencepiece: The model's ``tokenizer.model``.
        file: What is written.

    Raises:
        CorruptFile: The vocabulary is no SentencePiece file.
        UnsupportedTokenizer: It is of another kind than Llama's and Mistral's.
    """
    config = checkpoint.config
    assert isinstance(config, DecoderConfig)
    # Of itself the writer keeps all tensors in memory until the end.
    writer = gguf.GGUFWriter(file, "llama", use_temp_file=True)
    writer.add_block_count(config.num_layers)
    writer.add_context_length(config.max_positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_heads)
    writer.add_head_count_kv(config.num_kv_heads)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_vocabulary(writer, sentencepiece)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_layers)
    for name in sorted(checkpoint.names()):
        array = _permuted(checkpoint.read(name), name, config)
        # The map knows names as a language model has them.
        translated = names.get_name(f"model.{name}", try_suffixes=(".weight",))
        assert translated is not None, name
        kept = np.dtype(np.float32 if array.ndim == 1 else np.float16)
        writer.add_tensor(translated, array.astype(kept, copy=False))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, sentencepiece: Path) -> None:
    pieces = sentencepiece_pieces(sentencepiece)
    texts = [piece.text for piece in pieces]
    writer.add_tokenizer_model("llama")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(texts)
    writer.add_token_scores([piece.score for piece in pieces])
    writer.add_token_types([piece.type for piece in pieces])
    writer.add_bos_token_id(texts.index(_BOS))
    writer.add_eos_token_id(texts.index(_EOS))
    writer.add_add_bos_token(True)
    writer.add_add_eos_token(True)


def _permuted(array: NDArray[Any], name: str, config: DecoderConfig) -> NDArray[Any]:
    """Interleave the halves of each head of queries and keys, as llama.cpp has them.

    Source: https://github.com/ggml-org/llama.cpp/blob/master/convert_hf_to_gguf.py (``permute``)
    """
    if not name.endswith(("q_proj.weight", "k_proj.weight")):
        return array
    heads = config.num_heads if "q_proj" in name else config.num_kv_heads
    rows, columns = array.shape
    halves = array.reshape(heads, 2, rows // heads // 2, columns)
    return halves.swapaxes(1, 2).reshape(rows, columns)
