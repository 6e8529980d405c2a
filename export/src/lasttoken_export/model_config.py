"""Derives the config.pbtxt files of an exported model from the sources'.

The text is edited, so that the comments reach whoever operates the model, and the result is parsed
with Triton's own protobuf to prove that the edit did what it should.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from google.protobuf import text_encoding, text_format
from tritonclient.grpc import model_config_pb2

from lasttoken_export.model_sources import SOURCE_MODEL


def adapt_config(
    source: str, *, model: str, dimensions: int, parameters: Mapping[str, str] | None = None
) -> str:
    """Return the config.pbtxt of one of the exported models.

    Args:
        source: Text of the source's config.pbtxt.
        model: Triton name of the exported model, without the ending of a step.
        dimensions: Elements of its embedding.
        parameters: New values of parameters that the source has.

    Raises:
        KeyError: The source has no such parameter.
    """
    original = parse_config(source)
    [embedding_dims] = {
        output.dims[0] for output in original.output if output.name == "EMBEDDING"
    } or {dimensions}
    text = source.replace(SOURCE_MODEL, model)
    text = text.replace(f"dims: [ {embedding_dims} ]", f"dims: [ {dimensions} ]")
    text = with_parameters(text, parameters or {})
    _check(parse_config(text), original, model, dimensions, parameters or {})
    return text


def with_parameters(text: str, parameters: Mapping[str, str]) -> str:
    """Return the text of a config.pbtxt with new values of parameters that it has.

    Raises:
        KeyError: It has no such parameter.
    """
    for name, value in parameters.items():
        quoted = text_encoding.CEscape(value.encode(), as_utf8=True)
        text, count = re.subn(
            rf'(key: "{re.escape(name)}" value {{ string_value: )"(?:[^"\\]|\\.)*"',
            lambda match, quoted=quoted: f'{match[1]}"{quoted}"',  # type: ignore[misc]
            text,
        )
        if count != 1:
            raise KeyError(name)
    return text


def parse_config(text: str) -> model_config_pb2.ModelConfig:
    """Parse a config.pbtxt."""
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def _check(
    adapted: model_config_pb2.ModelConfig,
    expected: model_config_pb2.ModelConfig,
    model: str,
    dimensions: int,
    parameters: Mapping[str, str],
) -> None:
    expected.name = expected.name.replace(SOURCE_MODEL, model)
    for step in expected.ensemble_scheduling.step:
        step.model_name = step.model_name.replace(SOURCE_MODEL, model)
    for output in expected.output:
        if output.name == "EMBEDDING":
            output.dims[:] = [dimensions]
    for name, value in parameters.items():
        expected.parameters[name].string_value = value
    assert adapted == expected, "the edited config.pbtxt does not say what it should"
