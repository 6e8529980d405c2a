"""The planner's memory and roofline account, against counted parameters and a measured export."""

import json
from pathlib import Path

import pytest

from lasttoken_export.catalogue import entry, load_catalogue
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.errors import UnknownModel
from lasttoken_perf.plan import memory
from lasttoken_perf.plan.devices import load_devices
from lasttoken_perf.plan.memory import largest_batch, memory_account
from lasttoken_perf.plan.model_account import known_models, model_account
from lasttoken_perf.plan.roofline import BANDWIDTH_FRACTION, batch_time
from lasttoken_perf.plan.storage import STORAGES, unsupported_reason, weight_bytes

MEASUREMENTS = Path(__file__).parents[2] / "docs" / "measurements"
DEVICES = {device.name: device for device in load_devices()}
SFR = model_account("sfr-embedding-mistral")


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("sfr-embedding-mistral", 7_110_660_096),
        ("gte-qwen2-7b-instruct", 7_069_121_024),
        ("qwen3-embedding-0.6b", 595_776_512),
        ("qwen3-embedding-4b", 4_021_774_336),
        ("qwen3-embedding-8b", 7_567_295_488),
        ("nomic-embed-text-v1.5", 136_731_648),
    ],
)
def test_parameters_are_those_of_the_checkpoint(model, parameters):
    assert model_account(model).parameters == parameters


def test_every_model_of_the_catalogue_is_known_with_its_attention_and_dimensions():
    assert set(known_models()) == set(load_catalogue())
    for name in known_models():
        account = model_account(name)
        assert account.causal == (entry(name).attention == "causal")
        assert account.config.hidden_size == entry(name).dimensions
        assert account.max_length == entry(name).max_length
        published = entry(name).published_shape
        assert account.config.num_layers == published["num_layers"]
        assert account.config.num_heads == published["num_heads"]
        assert account.config.rope_theta == published.get("rope_theta")


def test_a_folder_is_read_and_anything_else_refused(tmp_path):
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "architectures": ["LlamaModel"], "hidden_size": 64, "num_hidden_layers": 2,
                "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
                "vocab_size": 100, "max_position_embeddings": 128,
            }
        )
    )  # fmt: skip
    matrices = 2 * (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128)
    account = model_account(str(tmp_path))
    assert account.matrix_parameters == matrices
    assert account.max_length == 128
    with pytest.raises(UnknownModel, match="sfr-embedding-mistral"):
        model_account("nonesuch")


def test_weights_are_those_of_a_measured_export():
    measured = json.loads((MEASUREMENTS / "export-7b.json").read_text())
    caches = 2 * 4096 * 64 * 2  # cos and sin of 4,096 positions, in the same file
    counted = weight_bytes(SFR, "fp16") + caches
    assert counted == pytest.approx(measured["report"]["weight_bytes"], rel=1e-5)


def test_arithmetic_of_a_token():
    assert SFR.flops_per_token(0) == pytest.approx(13.96e9, rel=1e-3)
    # A causal row of 2 n tokens costs a token as much attention as a bidirectional one of n.
    gte = model_account("gte-qwen2-7b-instruct")
    causal_part = SFR.flops_per_token(2000) - SFR.flops_per_token(0)
    assert causal_part == 2 * 32 * 4096 * 2000
    assert gte.flops_per_token(1000) - gte.flops_per_token(0) == 4 * 28 * 3584 * 1000


def test_quantised_weights_shrink_matrices_only():
    table = 32000 * 4096 * 2
    for precision, low, high in (("int8", 0.5, 0.51), ("int4", 0.25, 0.29)):
        share = (weight_bytes(SFR, precision) - table) / (weight_bytes(SFR, "fp16") - table)
        assert low < share < high


def account(precision="fp16", tokens=8192, longest=2048, model=SFR):
    return memory_account(
        model, precision, batch_tokens=tokens, longest_row=longest, runtime_bytes=1e9
    )


def test_the_memory_account_adds_up_by_hand():
    found = account()
    assert found.activations == 8192 * (2 * 4096 + 3 * 14336) * 2
    assert found.caches == 8192 * 128 * 2
    assert found.mask == 0
    assert found.total == found.weights + found.caches + found.activations + 1e9
    minilm = account(model=model_account("all-minilm-l6-v2"), tokens=1024, longest=256)
    assert minilm.mask == 1024 * 256
    assert minilm.caches == 0
    # 2 h + q + 2 kv of the packed, 2 q + 2 kv of the gathered tokens beat 2 h + 2 i here.
    assert minilm.activations == 1024 * max(9 * 384, 2 * 384 + 2 * 1536) * 2
    # Rows that begin alike are gathered with their shared tokens: twice the budget at most.
    qwen3 = account(model=model_account("qwen3-embedding-0.6b"), tokens=1024, longest=256)
    packed, gathered = 2 * 1024 + 2048 + 2 * 1024, 2 * 2048 + 2 * 1024
    assert qwen3.activations == 1024 * (packed + 2 * gathered) * 2
    planner = server_module(ENCODER, "batch_planner")
    assert planner.MOST_REAL_TOKENS == memory._MOST_SLOTS == 2


@pytest.mark.parametrize("model", ["sfr-embedding-mistral", "bge-m3"])
def test_the_largest_batch_fits_and_one_more_token_does_not(model):
    known, device = model_account(model), DEVICES["RTX 4090"]
    tokens = largest_batch(known, "fp16", device, longest_row=512, runtime_bytes=1e9)
    assert account(tokens=tokens, longest=512, model=known).total <= device.memory_bytes
    assert account(tokens=tokens + 1, longest=512, model=known).total > device.memory_bytes
    small = DEVICES["RTX 3070"]
    assert largest_batch(SFR, "fp16", small, longest_row=512, runtime_bytes=1e9) == 0


def test_one_token_is_bound_by_memory_and_a_full_batch_by_arithmetic():
    device = DEVICES["H100-SXM"]
    one, full = (
        batch_time(SFR, "fp16", device, tokens=n, row_length=1, efficiency=0.5) for n in (1, 8192)
    )
    body = SFR.parameters - 32000 * 4096
    assert one.bound == "memory"
    assert one.seconds == pytest.approx(2 * body / (BANDWIDTH_FRACTION * 3350e9), rel=1e-3)
    assert full.bound == "compute"
    assert full.seconds == 8192 * SFR.flops_per_token(1) / (0.5 * 989e12)


def test_what_a_gpu_lacks_is_refused():
    assert "8.9" in unsupported_reason(DEVICES["A100-40GB"], "fp8")
    assert "8.0" in unsupported_reason(DEVICES["T4"], "bf16")
    assert unsupported_reason(DEVICES["H200"], "fp8") is None
    assert all(unsupported_reason(DEVICES["H200"], precision) is None for precision in STORAGES)


def test_what_the_exporter_refuses_for_a_model_is_no_option():
    safe = model_account("qwen3-embedding-0.6b").safe_floats
    assert "fp16" not in safe
    assert "leave the range of fp16" in unsupported_reason(DEVICES["H200"], "fp16", safe)
    assert unsupported_reason(DEVICES["H200"], "int8", safe) is None
    reason = unsupported_reason(DEVICES["T4"], "int8", safe)
    assert reason == "int8 beside bf16, as the model wants, needs compute capability 8.0"
    assert unsupported_reason(DEVICES["T4"], "int8") is None
