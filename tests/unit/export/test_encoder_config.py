"""What config.json says of an encoder, and what of it is refused."""

import pytest

from lasttoken_export.encoder_config import EncoderConfig
from lasttoken_export.errors import (
    InvalidCheckpoint,
    MaxLengthBeyondModel,
    UnsupportedArchitecture,
)
from lasttoken_export.max_length import check_max_length

BERT = {
    "architectures": ["BertModel"], "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "intermediate_size": 96, "vocab_size": 50,
    "max_position_embeddings": 130, "hidden_act": "gelu",
}  # fmt: skip
NOMIC = {
    "architectures": ["NomicBertModel"], "n_embd": 64, "n_layer": 2, "n_head": 4, "n_inner": 96,
    "n_positions": 8192, "vocab_size": 50, "layer_norm_epsilon": 1e-12, "rotary_emb_base": 1000,
    "activation_function": "swiglu", "prenorm": False, "rotary_emb_scale_base": None,
    "qkv_proj_bias": False,
}  # fmt: skip
"""As nomic-embed-text-v1.5 writes it."""


def read(config, **changes):
    return EncoderConfig.from_hugging_face({**config, **changes})


def test_positions_of_xlm_roberta_begin_behind_the_padding():
    config = read(BERT, architectures=["XLMRobertaModel"], pad_token_id=1)
    assert (config.position_offset, config.max_positions) == (2, 128)
    assert read(BERT).max_positions == 130


@pytest.mark.parametrize("scaling", [None, 2.0])
@pytest.mark.parametrize("trained", [{}, {"max_trained_positions": 2048}])
def test_nomic_is_not_exported_beyond_what_it_was_trained_on(scaling, trained):
    config = read(NOMIC, rotary_scaling_factor=scaling, **trained)
    assert (config.rope_theta, config.max_positions) == (1000.0, 2048)
    check_max_length(config, 2048)
    with pytest.raises(MaxLengthBeyondModel, match="beyond the 2048 positions"):
        check_max_length(config, 2049)


def test_nomic_may_have_been_trained_on_more_or_have_fewer_positions():
    assert read(NOMIC, max_trained_positions=8192).max_positions == 8192
    assert read(NOMIC, n_positions=512).max_positions == 512


@pytest.mark.parametrize(
    "change",
    [
        {"rotary_emb_interleaved": True}, {"prenorm": True}, {"qkv_proj_bias": True},
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0}},
    ],
)  # fmt: skip
def test_another_nomic_is_refused(change):
    with pytest.raises(UnsupportedArchitecture):
        read(NOMIC, **change)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"hidden_act": "relu"}, UnsupportedArchitecture),
        ({"is_decoder": True}, UnsupportedArchitecture),
        ({"position_embedding_type": "relative_key"}, UnsupportedArchitecture),
        ({"num_attention_heads": 5}, InvalidCheckpoint),
        ({"vocab_size": 0}, InvalidCheckpoint),
        ({"hidden_size": "wide"}, InvalidCheckpoint),
    ],
)
def test_another_bert_is_refused(change, error):
    with pytest.raises(error):
        read(BERT, **change)
