"""nvidia-modelopt beside our own calibration: what is refused, what is told, without torch."""

import json
import signal
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from lasttoken_export.catalogue import entry
from lasttoken_perf import cli
from lasttoken_perf.commands import modelopt as command
from lasttoken_perf.errors import ToolUnavailable, WrongAnswer
from lasttoken_perf.interruption import Interrupted
from lasttoken_perf.modelopt import comparison, quantised_vectors
from lasttoken_perf.modelopt.quantised_vectors import Quantised, TorchModel, quantise
from lasttoken_perf.modelopt.schemes import SCHEMES, UNQUANTISED, ModeloptScheme, undivided_widths
from lasttoken_perf.modelopt.table import render
from lasttoken_perf.peers import environment, modelopt_quantiser
from lasttoken_perf.peers.process import PeerRun

INT8 = ModeloptScheme(precision="int8", config="INT8_SMOOTHQUANT_CFG")
WIDTHS = {"layers.0.up": 576, "layers.0.down": 1536}
WEIGHTS = {f"{name}.weight_quantizer": "8 bit fake axis=0" for name in WIDTHS}
NORM = {"layers.0.norm.input_quantizer": "8 bit fake per-tensor"}


def quantised(quantisers, vectors=((1.0, 0.0),)):
    return Quantised(
        vectors=np.array(vectors, np.float32),
        versions={"nvidia-modelopt": "0.47.0", "torch": "2.13.0"},
        input_widths=WIDTHS,
        quantisers=quantisers,
    )


def test_torch_must_have_loaded_the_same_model():
    ours = np.array([[0.6, 0.8], [1.0, 0.0]], np.float32)
    near = np.array([[0.6, 0.8], [1.0, 0.002]], np.float32)  # 1 - cosine is 2e-6
    assert comparison.check_same_model(ours, ours, "m") == pytest.approx(1)
    assert comparison.check_same_model(near, ours, "m") == pytest.approx(1 - 2e-6, abs=1e-7)
    far = np.array([[0.6, 0.8], [1.0, 0.01]], np.float32)  # 5e-5
    with pytest.raises(WrongAnswer, match=r"m: torch's fp32 .* 0\.9999500.*nothing is compared"):
        comparison.check_same_model(far, ours, "m")
    with pytest.raises(WrongAnswer, match=r"\(1, 2\), ours have \(2, 2\)"):
        comparison.check_same_model(ours[:1], ours, "m")
    with pytest.raises(WrongAnswer, match="nan"):
        comparison.check_same_model(ours * np.nan, ours, "m")


def test_all_linear_layers_are_quantised_or_none():
    quantised_vectors.check_linears(quantised(WEIGHTS), INT8)
    quantised_vectors.check_linears(quantised({}), UNQUANTISED)
    with pytest.raises(WrongAnswer, match=r"1 of 2 linear layers, 2 were .*'layers\.0\.down'"):
        quantised_vectors.check_linears(
            quantised({"layers.0.up.weight_quantizer": "8 bit fake"}), INT8
        )
    with pytest.raises(WrongAnswer, match="0 were expected"):
        quantised_vectors.check_linears(quantised(WEIGHTS), UNQUANTISED)


def test_what_is_no_linear_layer_is_named_and_can_be_ruled_out():
    found = quantised(WEIGHTS | NORM | {"layers.0.up.input_quantizer": "8 bit fake"})
    assert found.beyond_linears() == list(NORM)
    quantised_vectors.check_linears(found, INT8)
    with pytest.raises(WrongAnswer, match=r"more than linear layers, 'layers\.0\.norm"):
        quantised_vectors.check_linears(found, replace(INT8, linears_only=True))
    said = comparison.describe_quantised(found)
    assert (said["quantisers"], said["beyond_linear_layers"]) == (4, list(NORM))
    assert said["examples"]["weight_quantizer"] == "layers.0.up.weight_quantizer: 8 bit fake axis=0"


def torch_model(tmp_path):
    return TorchModel(
        folder=tmp_path,
        pooling="mean",
        attention="causal",
        calibration=[np.array([5, 6], np.int32)],
        rows=[np.array([7], np.int32)],
        python=tmp_path / "python",
        variables={},
        work_folder=tmp_path,
    )


@pytest.fixture
def torch_process(monkeypatch):
    """A process that quantises whatever it is told to; its settings are kept."""
    started = []

    class Process:
        version = "0.47.0"

        def __init__(self, module, settings, folder, *, python, variables):
            started.append(settings)
            on = {} if settings["config"] is None else WEIGHTS
            if on and not settings["linears_only"] and "INT4" not in settings["config"]:
                on = on | NORM
            report = {"versions": {"torch": "2"}, "input_widths": WIDTHS, "quantisers": on}
            (folder / "report.json").write_text(json.dumps(report))

        def corpus(self):
            return PeerRun(seconds=1.0, vectors=np.ones((1, 2), np.float32))

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(quantised_vectors, "PeerProcess", Process)
    return started


def test_the_process_gets_rows_of_tokens_and_never_texts(torch_process, tmp_path):
    found = quantise(torch_model(tmp_path), INT8)
    (settings,) = torch_process
    assert (settings["calibration"], settings["rows"]) == ([[5, 6]], [[7]])
    assert (settings["config"], settings["block_size"]) == ("INT8_SMOOTHQUANT_CFG", None)
    assert (settings["pooling"], settings["attention"]) == ("mean", "causal")
    assert found.versions == {"nvidia-modelopt": "0.47.0", "torch": "2"}


def test_norms_that_are_quantised_too_are_measured_with_and_without(torch_process, tmp_path):
    found = list(comparison._all_schemes(torch_model(tmp_path), lambda words: None))
    variants = [scheme.variant for scheme, _ in found]
    assert len(variants) == len(set(variants))
    alone = [v for v in variants if v.endswith(", linear layers only")]
    assert alone == [
        f"{scheme.config}, linear layers only" for scheme in SCHEMES if "INT4" not in scheme.config
    ]
    assert [settings["linears_only"] for settings in torch_process].count(True) == len(alone)


def test_blocks_are_changed_where_the_weights_have_them():
    config = {
        "quant_cfg": [
            {"quantizer_name": "*", "enable": False},
            {"quantizer_name": "*weight_quantizer", "cfg": {"block_sizes": {-1: 128, "type": "x"}}},
        ]
    }
    modelopt_quantiser.set_block_size(config, 32)
    assert config["quant_cfg"][1]["cfg"]["block_sizes"] == {-1: 32, "type": "x"}
    with pytest.raises(ValueError, match="no blocks of weights"):
        modelopt_quantiser.set_block_size({"quant_cfg": config["quant_cfg"][:1]}, 32)
    assert undivided_widths({576, 1536, 64}) == [64, 576]


def test_rows_lie_back_to_back_within_a_bound():
    rows = [[0] * length for length in (3, 2, 9, 1, 4)]
    packs = list(modelopt_quantiser.cut_rows(rows, 5))
    assert [[len(row) for row in pack] for pack in packs] == [[3, 2], [9], [1, 4]]
    assert list(modelopt_quantiser.cut_rows([], 5)) == []


FIGURES = {"mean_cosine": 0.99695, "p1_cosine": 0.99066, "minimum_cosine": 0.98863,
           "top10_overlap": 0.787, "ndcg_at_10": 0.5, "ndcg_change": -0.0004,
           "ndcg_change_error": 0.013}  # fmt: skip


def test_the_table_holds_a_precisions_rows_together():
    rows = [
        {"model": "m", "subject": "modelopt", "precision": "int4", "variant": "AWQ", **FIGURES},
        {"model": "m", "subject": "modelopt", "precision": "fp8", "variant": "BAD", **FIGURES,
         "discarded": "2 vectors hold NaN or infinity"},
        {"model": "m", "subject": "lasttoken", "precision": "int8", "variant": "ours", **FIGURES},
    ]  # fmt: skip
    checks = {
        "lowest_cosine_of_torch_fp32": 0.9999999,
        "linear_layers": 210,
        "inputs_that_128_does_not_divide": [576],
        "quantised": {"AWQ": {"beyond_linear_layers": list(NORM)}},
    }
    result = {"rows": rows, "workload": {"m": {"pairs": 150}}, "checks": {"m": checks}}
    lines = list(render(result))
    assert lines[2] == (
        "| m | 150 | int8 | lasttoken | ours | 0.99695 | 0.99066 | 0.98863 | 0.787 |"
        " -0.0 % ± 1.3 % |"
    )
    assert lines[3].startswith("| m | 150 | int4 | modelopt | AWQ |")
    assert lines[4] == ""
    told = "\n".join(lines[5:])
    assert "210 linear layers" in told
    assert "blocks of 128 do not divide 576 inputs" in told
    assert "AWQ: modelopt quantises 1 tensors more" in told
    assert "modelopt BAD is not in the table: 2 vectors hold NaN" in told


def test_the_command_compares_each_model_once(monkeypatch, tmp_path, capsys):
    asked = []

    def compare(model, open_texts, *, pairs, cache_folder, say, on_row):
        asked.append((model.name, pairs))
        row = {"model": model.name, "subject": "lasttoken", "version": "1", "precision": "int8",
               "variant": "ours", **FIGURES}  # fmt: skip
        on_row(row)
        if model.name == "all-minilm-l6-v2" and pairs == 7:
            on_row({**row, "variant": "another"})
            raise Interrupted(signal.SIGTERM)
        return comparison.ModelComparison(
            rows=[row],
            workload={"pairs": pairs or 500},
            checks={
                "lowest_cosine_of_torch_fp32": 1.0,
                "linear_layers": 36,
                "inputs_that_128_does_not_divide": [],
                "quantised": {},
            },
            versions={"torch": "2.13.0"},
        )

    monkeypatch.setattr(command, "compare_model", compare)
    file = tmp_path / "result.json"
    assert cli.main(["modelopt", "--output", str(file)]) == 0
    assert asked == [("smollm2-135m", None), ("all-minilm-l6-v2", None)]
    result = json.loads(file.read_text())
    assert (result["kind"], len(result["rows"])) == ("modelopt", 2)
    assert result["settings"]["versions"] == {"torch": "2.13.0"}
    assert "| all-minilm-l6-v2 | 500 | int8 |" in capsys.readouterr().out
    asked.clear()
    twice = ["--model", "all-minilm-l6-v2", "--model", "all-minilm-l6-v2", "--pairs", "9"]
    assert cli.main(["modelopt", *twice]) == 0
    assert asked == [("all-minilm-l6-v2", 9)]
    assert cli.main(["modelopt", "--pairs", "7", "--output", str(file)]) == 143
    assert f"; what was finished before it is in {file}" in capsys.readouterr().err
    result = json.loads(file.read_text())
    assert (result["interrupted"], len(result["rows"])) == ("SIGTERM after 3 rows", 3)
    assert list(result["workload"]) == ["smollm2-135m"]
    assert cli.main(["modelopt", "--model", "no-such-model"]) == 2
    assert "'no-such-model' is not in the catalogue" in capsys.readouterr().err


def test_without_its_environment_nothing_is_opened(monkeypatch):
    def offline(name, cache_folder, announce):
        raise ToolUnavailable(f"the peer {name} could not be installed")

    monkeypatch.setattr(comparison, "install_peer", offline)
    with pytest.raises(ToolUnavailable, match="peer modelopt"):
        comparison.compare_model(
            entry("all-minilm-l6-v2"), None, pairs=2, cache_folder=None, say=lambda words: None
        )


def test_a_decoder_gets_fewer_pairs_than_an_encoder(smollm2_checkpoint):
    assert comparison.default_pairs(smollm2_checkpoint) == 150
    assert comparison.default_pairs(SimpleNamespace(config=None)) == 500


def test_its_environment_is_pinned():
    text = (environment._REQUIREMENTS / "modelopt.txt").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    assert {"nvidia-modelopt==0.47.0", "torch==2.13.0"} <= set(lines)
    assert any(line.startswith("transformers==") for line in lines)
