"""The GPU suite on a processor and a tiny shape: everything but the GPU."""

import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from lasttoken_export.checkpoint import validate_tensors
from lasttoken_perf import cli
from lasttoken_perf.commands import gpu as gpu_command
from lasttoken_perf.errors import InvalidCalibration, InvalidSuite, WrongAnswer
from lasttoken_perf.gpu_suite import suite
from lasttoken_perf.gpu_suite.arithmetic import layer_products, streamed_bytes
from lasttoken_perf.gpu_suite.derived import ratios, with_derived
from lasttoken_perf.gpu_suite.measuring import device_of
from lasttoken_perf.gpu_suite.placement import count_nodes
from lasttoken_perf.gpu_suite.reference import agreement, separation
from lasttoken_perf.gpu_suite.render import suite_tables
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.shapes import shape_account, shape_config
from lasttoken_perf.gpu_suite.step_process import StepOutcome, run_step
from lasttoken_perf.gpu_suite.suite import STEPS, assemble, run_suite, why_not
from lasttoken_perf.gpu_suite.token_rows import (
    CORPORA,
    EVEN,
    MIXTURE,
    QUERIES,
    compared_rows,
    make_rows,
    pack,
)
from lasttoken_perf.interruption import Interrupted
from lasttoken_perf.plan.calibration import points_of_result
from lasttoken_perf.plan.reported_names import device_of_reported_name
from lasttoken_perf.results import read_result


def settings(folder, **changed):
    values = {
        "shape": "tiny", "device": "cpu", "precision": "fp32", "rows": 6, "queries": 2,
        "batch_tokens": 512, "repeats": 1, "seed": 7, "work_folder": folder,
    }  # fmt: skip
    return SuiteSettings(**{**values, **changed})


def rows_of(result, subject, load=None):
    return [
        row for row in result["rows"]
        if row["subject"] == subject and load in (None, row.get("load"))
    ]  # fmt: skip


# ---- the whole suite


@pytest.mark.filterwarnings("ignore")  # of the libraries that are measured
@pytest.mark.server
def test_the_suite_runs_from_the_command_line_without_a_gpu(tmp_path, capsys):
    output = tmp_path / "gpu.json"
    arguments = ["gpu", "--device", "cpu", "--shape", "tiny", "--rows", "6", "--queries", "2",
                 "--repeats", "1", "--work-folder", str(tmp_path / "work"),
                 "--output", str(output)]  # fmt: skip
    assert cli.main([*arguments, "--together"]) == 0
    result = read_result(output)
    assert {name: step["status"] for name, step in result["steps"].items()} == {
        **dict.fromkeys(STEPS, "done"), "tensorrt": "unavailable",
    }  # fmt: skip
    assert why_not(result) == {"tensorrt": "unavailable: a plan runs on an NVIDIA GPU only"}
    contestants = ("torch, packed", "ONNX Runtime", "transformers, padded",
                   "sentence-transformers", "lasttoken server")  # fmt: skip
    for subject in contestants:
        corpora = {row["distribution"]: row for row in rows_of(result, subject, "corpus")}
        assert set(corpora) == set(CORPORA), subject
        for row in corpora.values():
            # Every one was compared with transformers in this very run, in float32.
            assert row["minimum_cosine"] > 0.99999
            assert row["fraction_of_ceiling"] > 0
            assert row["tokens_per_s"] * row["seconds"] == pytest.approx(
                result["workload"][row["distribution"]]["tokens"]
            )
        [single] = rows_of(result, subject, "single")
        assert single["times_floor"] == pytest.approx(single["p50_ms"] / single["floor_ms"])
    parity = [row for row in result["rows"] if row.get("load") == "parity"]
    assert {row["subject"] for row in parity} == {"torch, packed", "ONNX Runtime"}
    # Vectors of different texts differ, so agreeing with the reference means something.
    assert max(result["checks"]["parity"]["tiny"]["cosine_of_different_texts"].values()) < 0.9
    nodes = result["checks"]["parity"]["tiny"]["CPUExecutionProvider"]
    assert nodes["CPUExecutionProvider"]["Attention"] == 6
    assert result["model"]["parameters"] == shape_account("tiny").parameters
    assert "| sentence-transformers" in capsys.readouterr().out

    # One step again, this time in a process of its own: its rows are replaced, the others stay.
    before = result["rows"]
    assert cli.main([*arguments, "--steps", "ceilings"]) == 0
    again = read_result(output)
    assert again["steps"].keys() == result["steps"].keys()
    assert len(again["rows"]) == len(before)
    assert rows_of(again, "memory copy") != rows_of(result, "memory copy")
    assert [r["p50_ms"] for r in rows_of(again, "lasttoken server", "single")] == [
        r["p50_ms"] for r in rows_of(result, "lasttoken server", "single")
    ]

    # Figures of other settings do not go into the same file.
    assert cli.main([*arguments, "--steps", "ceilings", "--seed", "8"]) == 1
    assert "holds figures with seed 7, not 8" in capsys.readouterr().err
    assert read_result(output) == again

    # The planner takes the file as it is: not the figures of a processor, but those of a GPU.
    assert cli.main(["plan", "--calibration", str(output)]) == 2
    assert "cpu: " in (refusal := capsys.readouterr().err)
    assert "no data sheet of this device" in refusal
    on_a_gpu = json.loads(
        output.read_text()
        .replace(json.dumps(device_of(settings(tmp_path))), '"NVIDIA H100 80GB HBM3"')
        .replace('"fp32"', '"fp16"')
    )
    on_a_gpu["model"]["name"] = "sfr-embedding-mistral"
    output.write_text(json.dumps(on_a_gpu))
    plan = ["plan", "--model", "linq-embed-mistral", "--gpu", "H100-SXM", "--precision", "fp16"]
    answer = tmp_path / "plan.json"
    assert cli.main([*plan, "--calibration", str(output), "--output", str(answer)]) == 0
    [planned] = json.loads(answer.read_text())["plans"]
    [point] = [p for p in on_a_gpu["summary"]
               if (p["subject"], p.get("distribution")) == ("ONNX Runtime", EVEN)
               and p["load"] == "corpus"]  # fmt: skip
    assert planned["rate"]["value"] == point["tokens_per_s"]["median"]
    assert planned["rate"]["basis"] == "measured"
    assert planned["rate"]["source"].startswith(f"ONNX Runtime on {EVEN}: gpu.json")


# ---- steps that do not go well

STEP_MODULES = {
    "fine": "def run(settings):\n    return StepReport(rows=[{'subject': 'fine', "
    "'tokens_per_s': 5.0}])",
    "raises": "def run(settings):\n    raise ValueError('no such weights')",
    "wrong": "def run(settings):\n    raise WrongAnswer('a vector is off')",
    "lacks": "import no_such_library\n\ndef run(settings):\n    pass",
    "cannot": "def run(settings):\n    raise StepUnavailable('there is no such card')",
    "dies": "def run(settings):\n    os.kill(os.getpid(), 9)",
    "hangs": "def run(settings):\n    child = subprocess.Popen(['sleep', '60'])\n"
    "    Path(FOLDER, 'pid').write_text(str(child.pid))\n    time.sleep(60)",
}
HEAD = """
import os, subprocess, time
from pathlib import Path
from lasttoken_perf.errors import WrongAnswer
from lasttoken_perf.gpu_suite.step_report import StepReport, StepUnavailable
FOLDER = {folder!r}
"""


@pytest.fixture
def steps(tmp_path, monkeypatch):
    for name, body in STEP_MODULES.items():
        text = HEAD.format(folder=str(tmp_path)) + body
        (tmp_path / f"toy_{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return {name: f"toy_{name}" for name in STEP_MODULES}


def test_a_step_that_fails_is_told_and_stops_no_other(steps, tmp_path):
    said = []
    names = ["raises", "wrong", "lacks", "cannot", "dies", "fine"]
    order = {name: steps[name] for name in names}
    result = run_suite(
        settings(tmp_path), names, limit_s=60, output=tmp_path / "gpu.json", say=said.append,
        steps=order,
    )  # fmt: skip
    assert {name: step["status"] for name, step in result["steps"].items()} == {
        "raises": "failed", "wrong": "failed", "lacks": "unavailable", "cannot": "unavailable",
        "dies": "failed", "fine": "done",
    }  # fmt: skip
    reasons = why_not(result)
    assert reasons["raises"].endswith("ValueError: no such weights")
    assert "ended with 1" in reasons["raises"]
    assert reasons["wrong"] == "failed: WrongAnswer: a vector is off"
    assert "No module named 'no_such_library'" in reasons["lacks"]
    assert reasons["cannot"] == "unavailable: there is no such card"
    assert "ended with -9" in reasons["dies"]
    assert rows_of(result, "fine") == [{"subject": "fine", "tokens_per_s": 5.0}]
    assert read_result(tmp_path / "gpu.json")["steps"] == result["steps"]
    assert any(line.startswith("dies: failed") for line in said)


def test_an_interrupted_suite_says_where_the_earlier_steps_are(steps, tmp_path, monkeypatch):
    def interrupted(module, settings):
        if module.endswith("lacks"):
            raise Interrupted(signal.SIGTERM)
        return StepOutcome(status="done", seconds=1.0, reason="", rows=[], checks={})

    monkeypatch.setattr(suite, "run_step_here", interrupted)
    output, order = tmp_path / "gpu.json", {name: steps[name] for name in ("fine", "lacks")}
    with pytest.raises(Interrupted) as interruption:
        run_suite(settings(tmp_path), list(order), limit_s=60, output=output, say=print,
                  together=True, steps=order)  # fmt: skip
    assert interruption.value.kept == f"; in {output}: fine"
    assert list(read_result(output)["steps"]) == ["fine"]


def test_a_share_above_the_ceiling_is_not_left_unexplained():
    def tables(share):
        point = {"subject": "a", "precision": "fp32", "load": "ceiling",
                 "flops_per_s": {"median": 4.2e9}}  # fmt: skip
        engine = {"subject": "b", "precision": "fp32", "load": "corpus", "distribution": EVEN,
                  "tokens_per_s": {"median": 5.0, "min": 5.0, "max": 5.0},
                  "fraction_of_ceiling": {"median": share}}  # fmt: skip
        return "\n".join(suite_tables({"summary": [point, engine], "ratios": {}, "rows": []}))

    assert "repeat the step `ceilings`" in tables(1.2)
    assert "repeat the step" not in tables(0.9)
    assert "| a | fp32 | 0.00420 | - |" in tables(0.9)  # of a small shape too
    assert "no figure" not in tables(0.9)  # a table without rows


def test_a_suite_without_any_figure_fails(tmp_path, monkeypatch, capsys):
    outcome = {"status": "failed", "reason": "no card", "seconds": 1.0, "rows": [], "checks": {}}
    none = assemble({"parity": outcome}, settings(tmp_path))
    words = ["gpu", "--shape", "tiny", "--output", str(tmp_path / "gpu.json"), "--steps", "parity"]
    monkeypatch.setattr(gpu_command, "run_suite", lambda *_, **__: none)
    assert cli.main(words) == 1
    said = capsys.readouterr()
    assert "no step gave a figure" in said.err
    assert "| parity | failed: no card |" in said.out
    done = assemble({"parity": {**outcome, "status": "done"}}, settings(tmp_path))
    monkeypatch.setattr(gpu_command, "run_suite", lambda *_, **__: done)
    assert cli.main(words) == 0


def test_a_step_beyond_its_time_is_ended_with_what_it_started(steps, tmp_path):
    for limit_s in (4, 30):  # Python itself may take its time to start
        outcome = run_step(
            steps["hangs"], settings(tmp_path), limit_s=limit_s, folder=tmp_path / f"logs{limit_s}"
        )
        assert outcome.status == "timed out"
        assert f"not done after {limit_s} s" in outcome.reason
        if (tmp_path / "pid").exists():
            break
    child = int((tmp_path / "pid").read_text())
    for _ in range(50):
        if not _runs(child):
            return
        time.sleep(0.1)
    pytest.fail("what the step had started is still running")


def _runs(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat").read_text()
    return stat.rpartition(")")[2].split()[0] != "Z"


# ---- arithmetic, by hand

SFR = shape_account("sfr")


def test_operations_and_bytes_of_sfr_are_those_counted_by_hand():
    # QKV 4096 x 6144, output 4096 x 4096, gate and up 4096 x 28672, down 14336 x 4096.
    layer = 4096 * 6144 + 4096 * 4096 + 4096 * 28672 + 14336 * 4096
    assert layer == 218_103_808
    assert SFR.flops_per_token(0) == 2 * 32 * layer
    # A causal row of 256: each token attends to 128 on average, 4 operations an element of 4096.
    assert SFR.flops_per_token(256) == 2 * 32 * layer + 32 * 4 * 4096 * 128
    norms = (2 * 32 + 1) * 4096
    assert SFR.parameters == 32 * layer + norms + 32000 * 4096 == 7_110_660_096
    assert streamed_bytes(SFR, "fp16") == 2 * (32 * layer + norms) == 13_959_176_192
    assert streamed_bytes(SFR, "fp32") == 2 * streamed_bytes(SFR, "bf16")


def test_the_products_of_a_layer_are_its_operations():
    products = layer_products(shape_config("sfr"), 8192)
    assert [str(product) for product in products] == [
        "qkv 8192 x 4096 x 6144", "output 8192 x 4096 x 4096",
        "gate and up 8192 x 4096 x 28672", "down 8192 x 14336 x 4096",
    ]  # fmt: skip
    assert products[0].operations == 2 * 8192 * 4096 * 6144
    assert 32 * sum(p.operations for p in products) == 8192 * SFR.flops_per_token(0)


def test_shares_and_floors_follow_from_the_ceilings(tmp_path):
    at_sfr = settings(tmp_path, shape="sfr", precision="fp16")
    ceilings = [
        {"subject": "matrix products of a layer", "load": "ceiling", "flops_per_s": speed}
        for speed in (690e12, 700e12, 720e12)
    ]
    ceilings += [
        {"subject": "memory copy", "load": "ceiling", "bytes_per_s": 3.0e12},
        {"subject": "memory read", "load": "ceiling", "bytes_per_s": 3.2e12},
    ]
    engine = {"subject": "ONNX Runtime", "precision": "fp16"}
    corpus = {**engine, "load": "corpus", "distribution": EVEN, "tokens_per_s": 25_000.0}
    single = {**engine, "load": "single", "distribution": QUERIES, "p50_ms": 8.0}
    rows = with_derived([*ceilings, corpus, single], at_sfr, {EVEN: 256.0})
    assert rows[:5] == ceilings
    # 14.0257 GFLOP a token: 25,000 of them a second are 350.6 of 700 TFLOP/s.
    assert rows[5]["flops_per_s"] == 25_000 * 14_025_752_576
    assert rows[5]["fraction_of_ceiling"] == pytest.approx(0.500920, abs=1e-6)
    # 13.959 GB at 3.2 TB/s, the faster of the two.
    assert rows[6]["floor_ms"] == pytest.approx(4.362243, abs=1e-6)
    assert rows[6]["times_floor"] == pytest.approx(8.0 / 4.362243, abs=1e-6)
    [_, alone] = with_derived([corpus, single], at_sfr, {EVEN: 256.0})
    assert alone == single  # no ceiling, no share


def test_ratios_are_to_the_best_variant_of_the_torch_model():
    def corpus(subject, speed, **more):
        return {"subject": subject, "load": "corpus", "distribution": MIXTURE,
                "tokens_per_s": speed, **more}  # fmt: skip

    rows = [
        corpus("torch, packed", 900.0, variant="eager"),
        corpus("torch, packed", 1000.0, variant="compiled"),
        corpus("ONNX Runtime", 800.0), corpus("ONNX Runtime", 850.0),
        corpus("TensorRT", 1.0, discarded="was disturbed"),
    ]  # fmt: skip
    assert ratios(rows) == {
        "ONNX Runtime / torch, packed, mixture": {"min": 0.8, "median": 0.825, "max": 0.85}
    }
    assert ratios(rows[2:]) == {}


# ---- parts


def test_weights_are_whole_and_the_same_in_every_step():
    from lasttoken_perf.gpu_suite.random_weights import RandomWeights

    weights = RandomWeights("tiny", precision="bf16", device="cpu", seed=3)
    validate_tensors(weights)
    again = RandomWeights("tiny", precision="bf16", device="cpu", seed=3)
    name = "layers.1.mlp.down_proj.weight"
    first = weights.read(name)
    np.testing.assert_array_equal(first, again.read(name))
    assert first.dtype.name == "bfloat16"
    np.testing.assert_array_equal(first.astype(np.float32), weights.tensor(name).float().numpy())
    other = RandomWeights("tiny", precision="bf16", device="cpu", seed=4).read(name)
    assert (first != other).mean() > 0.9
    assert (first != weights.read("layers.0.mlp.down_proj.weight")).mean() > 0.9
    assert abs(weights.tensor("norm.weight").float().mean().item() - 1) < 0.05


def test_rows_have_the_lengths_of_texts_and_are_packed_whole(tmp_path):
    wanted = settings(tmp_path, rows=200, shape="sfr")
    mixture = make_rows(wanted, MIXTURE)
    assert mixture.describe() == make_rows(wanted, MIXTURE).describe()
    assert make_rows(settings(tmp_path, rows=200, shape="sfr", seed=8), MIXTURE).describe()[
        "sha256"
    ] != mixture.describe()["sha256"]  # fmt: skip
    lengths = np.array([len(row) for row in mixture.rows])
    assert 30 < np.median(lengths) < 80
    assert lengths.max() <= 580 * 1.4 + 2
    assert mixture.describe()["attended"] == pytest.approx((lengths**2).sum() / lengths.sum())
    for row in mixture.rows:
        assert (row[0], row[-1]) == (1, 2)
        assert row[1:-1].min() >= 3
        assert row.max() < 32000
    assert {len(row) for row in make_rows(wanted, EVEN).rows} == {256}
    compared = compared_rows(mixture)
    assert len(compared.rows) == 64
    assert compared.lengths.longest == lengths.max()
    batches = pack(mixture.rows, 2048)
    assert sorted(index for batch in batches for index in batch.indices) == list(range(200))
    assert max(len(batch.input_ids) for batch in batches) <= 2048
    first = batches[0]
    np.testing.assert_array_equal(
        first.input_ids[: first.row_lengths[0]], mixture.rows[first.indices[0]]
    )


def test_every_attention_is_checked_before_it_is_taken(monkeypatch):
    import torch  # noqa: TID251 - the suite measures torch too

    from lasttoken_perf.gpu_suite import varlen_attention

    def leaks_into_the_next_row():
        def attend(queries, keys, values, bounds):
            one_row = varlen_attention.row_bounds([len(queries)], queries.device)
            return varlen_attention.attention_a_row(queries, keys, values, one_row)

        return attend

    kinds = {
        "leaks": leaks_into_the_next_row,
        "rows": lambda: varlen_attention.attention_a_row,
    }
    monkeypatch.setattr(varlen_attention, "_KINDS", kinds)
    name, _, passed_over = varlen_attention.choose_attention(
        heads=4, kv_heads=2, head_dim=16, device=torch.device("cpu"), dtype=torch.float32
    )
    assert name == "rows"
    assert passed_over["leaks"].startswith("ValueError: differs from plain attention by")


def test_what_is_not_the_references_vector_is_refused():
    random = np.random.default_rng(0)
    reference = random.normal(size=(4, 64)).astype(np.float32)
    reference /= np.linalg.norm(reference, axis=1, keepdims=True)
    assert agreement(reference, reference, precision="fp32", who="x").minimum_cosine > 0.999999
    swapped = reference[[1, 0, 2, 3]]
    with pytest.raises(WrongAnswer, match="x does not agree with transformers"):
        agreement(swapped, reference, precision="bf16", who="x")
    with pytest.raises(WrongAnswer, match="a norm that is off 1"):
        agreement(2 * reference, reference, precision="bf16", who="x")
    with pytest.raises(WrongAnswer, match="shape"):
        agreement(reference[:3], reference, precision="bf16", who="x")
    with pytest.raises(WrongAnswer, match="norm"):
        agreement(np.full_like(reference, np.nan), reference, precision="bf16", who="x")
    assert separation(np.eye(3, dtype=np.float32)) == 0
    assert separation(np.ones((2, 1), np.float32)) == 1


def test_nodes_that_fall_to_another_provider_are_counted():
    def event(name, provider, operator, kind="Node"):
        return {"cat": kind, "name": name, "args": {"provider": provider, "op_name": operator}}

    events = [
        event("a_kernel_time", "CUDAExecutionProvider", "MatMul"),
        event("a_kernel_time", "CUDAExecutionProvider", "MatMul"),  # a second run of the same
        event("b_kernel_time", "CUDAExecutionProvider", "MatMul"),
        event("c_kernel_time", "CPUExecutionProvider", "Shape"),
        event("a_fence_before", "CUDAExecutionProvider", "MatMul"),
        {"cat": "Session", "name": "model_run", "args": {}},
    ]
    assert count_nodes(events) == {
        "CUDAExecutionProvider": {"MatMul": 2}, "CPUExecutionProvider": {"Shape": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changed", "message"),
    [({"shape": "huge"}, "shape is 'huge'"), ({"rows": 0}, "rows is 0"),
     ({"precision": "int3"}, "precision is 'int3'")],
)  # fmt: skip
def test_settings_out_of_range_are_refused(tmp_path, changed, message):
    with pytest.raises(InvalidSuite, match=message):
        settings(tmp_path, **changed)


def test_settings_travel_to_the_steps_process(tmp_path):
    given = settings(tmp_path)
    assert SuiteSettings.from_json(json.loads(json.dumps(given.to_json()))) == given


# ---- what the planner takes


def test_the_fastest_engine_of_ours_is_what_is_planned_with():
    def point(subject, distribution, speed, **more):
        return {"subject": subject, "distribution": distribution, "load": "corpus",
                "device": "NVIDIA H200", "precision": "fp16",
                "tokens_per_s": {"min": 1.0, "median": speed, "max": 9e9}, **more}  # fmt: skip

    summary = [
        point("torch, packed", EVEN, 50_000.0),
        point("ONNX Runtime", MIXTURE, 40_000.0),
        point("ONNX Runtime", EVEN, 30_000.0),
        point("TensorRT", EVEN, 35_000.0),
        point("TensorRT", EVEN, 20_000.0, precision="bf16"),
        point("lasttoken server", EVEN, 45_000.0),
        point("TensorRT", EVEN, 60_000.0, device="NVIDIA H100 PCIe"),
    ]
    result = {
        "kind": "gpu", "model": {"name": "sfr-embedding-mistral"}, "summary": summary,
        "command": "lasttoken-perf gpu", "taken_at": "2026-11-25T00:00:00+00:00",
    }  # fmt: skip
    points = points_of_result(result, "gpu.json")
    assert [(p["gpu"], p["precision"], p["tokens_per_s"]) for p in points] == [
        ("H200", "fp16", 35_000.0), ("H200", "bf16", 20_000.0),
    ]  # fmt: skip
    assert points[0]["source"] == (f"TensorRT on {EVEN}: gpu.json, lasttoken-perf gpu, 2026-11-25")
    with pytest.raises(InvalidCalibration, match="tiny: random weights of no known model's shape"):
        points_of_result({**result, "model": {"name": "tiny"}}, "gpu.json")
    with pytest.raises(InvalidCalibration, match="no engine was measured"):
        points_of_result({**result, "summary": summary[:1]}, "gpu.json")


@pytest.mark.parametrize(
    ("reported", "device"),
    [
        ("NVIDIA H100 80GB HBM3", "H100-SXM"), ("NVIDIA H100 PCIe", None),
        ("NVIDIA H200", "H200"), ("NVIDIA L4", "L4"), ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100-SXM4-80GB", "A100-80GB-SXM"), ("NVIDIA A100-SXM4-40GB", "A100-40GB"),
        ("Tesla T4", "T4"), ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None), ("NVIDIA GeForce RTX 5070", None),
        ("cpu: 2 cores of AMD EPYC", None),
    ],
)  # fmt: skip
def test_a_gpu_is_known_by_the_name_that_its_driver_reports(reported, device):
    found = device_of_reported_name(reported)
    assert (found.name if found else None) == device
