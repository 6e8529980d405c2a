import re

import pytest

from lasttoken_export.decoder_config import DecoderConfig
from lasttoken_export.errors import (
    InvalidCheckpoint,
    MaxLengthBeyondModel,
    UnsupportedArchitecture,
    UnsupportedRopeScaling,
)
from lasttoken_export.max_length import check_max_length
from unit.export.checkpoints import CONFIG


def read(**changes):
    return DecoderConfig.from_hugging_face({**CONFIG, **changes})


def test_values_and_their_defaults():
    config = read(head_dim=None, num_key_value_heads=None)
    assert (config.head_dim, config.num_kv_heads, config.rope_theta) == (8, 4, 10_000.0)


@pytest.mark.parametrize(
    "spelling",
    [
        {"rope_theta": 5e5},
        {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 5e5}},
        {"rope_theta": 5e5, "rope_scaling": None},
        {"rope_theta": 5e5, "rope_scaling": {"type": "default"}},
    ],
)
def test_rotary_settings_in_every_spelling(spelling):
    assert read(**spelling).rope_theta == 5e5


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"architectures": ["GemmaModel"]}, UnsupportedArchitecture, "'GemmaModel'; known are"),
        ({"architectures": None}, UnsupportedArchitecture, "(none)"),
        ({"hidden_act": "gelu"}, UnsupportedArchitecture, "hidden_act to 'gelu'"),
        ({"attention_bias": True}, UnsupportedArchitecture, "attention_bias to True"),
        ({"mlp_bias": True}, UnsupportedArchitecture, "mlp_bias"),
        ({"partial_rotary_factor": 0.5}, UnsupportedArchitecture, "partial_rotary_factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, UnsupportedRopeScaling, "'linear'"),
        ({"rope_scaling": {"rope_type": "yarn"}}, UnsupportedRopeScaling, "'yarn'"),
        (
            {"rope_parameters": {"rope_type": "llama3", "rope_theta": 1e4}},
            UnsupportedRopeScaling,
            "'llama3'",
        ),
        ({"hidden_size": "wide"}, InvalidCheckpoint, "malformed"),
        ({"num_hidden_layers": 0}, InvalidCheckpoint, "num_layers is 0"),
        ({"num_key_value_heads": 3}, InvalidCheckpoint, "4 heads of 8 elements"),
        ({"head_dim": 7}, InvalidCheckpoint, "heads of 7"),
    ],
)
def test_what_the_graph_cannot_do_is_refused_by_name(changes, error, message):
    with pytest.raises(error, match=re.escape(message)):
        read(**changes)


def test_a_missing_setting_is_named():
    config = {key: value for key, value in CONFIG.items() if key != "intermediate_size"}
    with pytest.raises(InvalidCheckpoint, match="intermediate_size"):
        DecoderConfig.from_hugging_face(config)


def test_the_maximum_length_stays_within_window_and_positions():
    check_max_length(read(sliding_window=16), 16)
    with pytest.raises(MaxLengthBeyondModel, match=r"sliding window of 16 .*--max-length 16"):
        check_max_length(read(sliding_window=16), 17)
    with pytest.raises(MaxLengthBeyondModel, match="64 positions"):
        check_max_length(read(), 65)
    with pytest.raises(MaxLengthBeyondModel, match="not positive"):
        check_max_length(read(), 0)


GGUF = {
    "general.architecture": "llama",
    "llama.block_count": 2,
    "llama.context_length": 64,
    "llama.embedding_length": 32,
    "llama.feed_forward_length": 64,
    "llama.attention.head_count": 4,
    "llama.attention.layer_norm_rms_epsilon": 9.999999747378752e-06,
}


def test_gguf_metadata():
    config = DecoderConfig.from_gguf(GGUF, vocab_size=40)
    assert config.rms_norm_eps == 1e-5  # the file holds it as float32
    assert (config.num_kv_heads, config.head_dim, config.vocab_size) == (4, 8, 40)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"general.architecture": "gemma"}, UnsupportedArchitecture),
        ({"llama.rope.dimension_count": 4}, UnsupportedArchitecture),
        (
            {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0},
            UnsupportedRopeScaling,
        ),
        ({"llama.embedding_length": "x"}, InvalidCheckpoint),
    ],
)
def test_gguf_refusals(changes, error):
    with pytest.raises(error):
        DecoderConfig.from_gguf({**GGUF, **changes}, vocab_size=40)
