"""What is measured is what the arguments name, also where another server runs already."""

import argparse
from types import SimpleNamespace

import pytest

from lasttoken_perf import serving
from lasttoken_perf.errors import UnknownWorkload
from lasttoken_perf.serving import add_serving_arguments, open_serving

CARD = {"model": "all-minilm-l6-v2", "precision": "int8"}


class OneModel:
    """A client of a server that has one model."""

    def __init__(self, url, name):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def list_models(self, timeout_s):
        return [SimpleNamespace(name="all_minilm_l6_v2", ready=True, dimensions=384, card=CARD)]


def opened(monkeypatch, *words):
    parser = argparse.ArgumentParser()
    add_serving_arguments(parser)
    monkeypatch.setattr(serving, "EmbeddingClient", OneModel)
    options = parser.parse_args(["--url", "127.0.0.1:1", *words])
    with open_serving(options, cache_folder=None, say=lambda words: None) as served:
        return served


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("--model", "all-minilm-l6-v2"),
        ("--model", "all_minilm_l6_v2", "--precision", "int8"),
    ],
)
def test_what_is_served_may_be_named(monkeypatch, words):
    assert opened(monkeypatch, *words).precision == "int8"


@pytest.mark.parametrize(
    ("option", "value", "served"),
    [("model", "smollm2-135m", "all-minilm-l6-v2"), ("precision", "fp32", "int8")],
)
def test_another_is_not_measured_in_its_place(monkeypatch, option, value, served):
    with pytest.raises(UnknownWorkload, match=f"--{option} is '{value}', but .*'{served}'"):
        opened(monkeypatch, f"--{option}", value)


def test_the_metrics_are_looked_at_before_anything_is_measured(monkeypatch):
    looked = []
    monkeypatch.setattr(serving, "check_metrics", lambda *words: looked.append(words))
    opened(monkeypatch, "--metrics-url", "http://here/metrics")
    assert looked == [("http://here/metrics", "all_minilm_l6_v2")]
