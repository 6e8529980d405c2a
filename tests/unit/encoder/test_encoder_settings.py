import re
from pathlib import Path

import pytest
from encoder_settings import EncoderSettings, InvalidSettings

from lasttoken_export.model_config import parse_config

CONFIG = Path("model_repository/sfr_embedding_mistral_encoder/config.pbtxt")


@pytest.fixture
def parameters(pytestconfig):
    config = parse_config((pytestconfig.rootpath / CONFIG).read_text())
    return {name: {"string_value": value.string_value} for name, value in config.parameters.items()}


def test_the_shipped_configuration_is_complete_and_valid(parameters):
    settings = EncoderSettings.from_parameters(parameters)
    assert settings.max_length == 4096
    assert settings.bulk_queue_fraction == 0.75


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("runtime", "vulkan", "one of onnxruntime-cpu"),
        ("graph_form", "ragged", "one of packed, padded"),
        ("max_length", "many", "'many'; set it to a value of type int"),
        ("max_length", "5000", "max_batch_tokens is 4096; set it to at least max_length (5000)"),
        ("max_batch_rows", "0", "1 or more"),
        ("max_queue_tokens", "100", "at least max_batch_tokens"),
        ("bulk_queue_fraction", "1.5", "up to 1"),
        ("bulk_every", "1", "2 or more"),
        ("attention_cell_cost", "nan", "finite"),
        ("intra_op_threads", "-1", "0 or more"),
        ("kept_prefix_tokens", "-1", "0 or more"),
    ],
)
def test_values_out_of_range_are_refused_by_name(parameters, name, value, message):
    parameters[name] = {"string_value": value}
    with pytest.raises(InvalidSettings, match=re.escape(message)):
        EncoderSettings.from_parameters(parameters)


def test_unknown_and_missing_parameters_are_refused(parameters):
    parameters["max_lenght"] = parameters.pop("max_length")
    with pytest.raises(InvalidSettings, match=r"unknown .*'max_lenght'.* lacks \['max_length'\]"):
        EncoderSettings.from_parameters(parameters)
