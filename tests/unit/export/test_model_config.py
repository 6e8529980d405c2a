import pytest

from lasttoken_export.model_config import adapt_config, parse_config
from lasttoken_export.model_sources import ENCODER, ENSEMBLE, SOURCE_MODEL, TOKENIZER, model_sources


def source(step):
    return (model_sources() / f"{SOURCE_MODEL}{step}" / "config.pbtxt").read_text()


@pytest.mark.parametrize("step", [ENSEMBLE, TOKENIZER, ENCODER])
def test_names_and_dimensions_are_those_of_the_model(step):
    text = adapt_config(source(step), model="tiny_model", dimensions=12)
    config = parse_config(text)
    assert config.name == f"tiny_model{step}"
    assert SOURCE_MODEL not in text
    for output in config.output:
        if output.name == "EMBEDDING":
            assert list(output.dims) == [12]


def test_the_ensemble_calls_the_models_own_steps():
    config = parse_config(adapt_config(source(ENSEMBLE), model="tiny", dimensions=3))
    assert [step.model_name for step in config.ensemble_scheduling.step] == [
        "tiny_tokenizer",
        "tiny_encoder",
    ]


def test_parameters_are_set_and_comments_kept():
    text = adapt_config(
        source(ENCODER), model="tiny", dimensions=3, parameters={"max_length": "77"}
    )
    assert parse_config(text).parameters["max_length"].string_value == "77"
    assert "# Longest row, in tokens." in text


def test_an_unknown_parameter_is_refused():
    with pytest.raises(KeyError, match="max_lenght"):
        adapt_config(source(ENCODER), model="t", dimensions=3, parameters={"max_lenght": "1"})


def test_the_steps_fit_together_and_keep_the_public_contract():
    """The three configurations agree on every tensor that they hand on."""
    ensemble, tokenizer, encoder = (parse_config(source(s)) for s in (ENSEMBLE, TOKENIZER, ENCODER))

    def tensors(values):
        return {v.name: (v.data_type, tuple(v.dims)) for v in values}

    first, second = ensemble.ensemble_scheduling.step
    assert tensors(ensemble.input) == tensors(tokenizer.input)
    assert {v.name: v.optional for v in ensemble.input} == {
        "TEXT": False,
        "PROMPT_NAME": True,
        "INSTRUCTION": True,
    }
    assert set(tensors(ensemble.output)) == {"EMBEDDING", "TOKEN_COUNT", "TRUNCATED"}
    inner = {first.output_map[name]: spec for name, spec in tensors(tokenizer.output).items()}
    for name, tensor in second.input_map.items():
        assert tensors(encoder.input)[name] == inner[tensor]
    for name in ("TOKEN_COUNT", "TRUNCATED"):
        assert tensors(ensemble.output)[name] == inner[name]
    assert tensors(ensemble.output)["EMBEDDING"] == tensors(encoder.output)["EMBEDDING"]
    assert len({c.max_batch_size for c in (ensemble, tokenizer, encoder)}) == 1
