"""Rows that begin alike share tokens, and no vector shows it: small random checkpoints."""

from __future__ import annotations

from functools import partial

import numpy as np
import onnx_ir as ir
import pytest

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from parity.packed_files import write_packed_graph
from parity.reference import encode_in_batches
from parity.test_architectures import CASES, SHAPE, build

NAMES = [name for name, case in CASES.items() if case.attention == "causal"]
RANDOM = np.random.default_rng(4)


def tokens(length):
    return RANDOM.integers(3, SHAPE["vocab_size"], length, dtype=np.int32)


PROMPT, LONGER, DOCUMENT = tokens(20), tokens(9), tokens(70)
ROWS = [
    *(np.concatenate([PROMPT, tokens(length)]) for length in (1, 2, 5, 12, 40)),
    *(np.concatenate([PROMPT, LONGER, tokens(length)]) for length in (1, 6, 30)),
    PROMPT,  # the whole of it is another's beginning
    PROMPT[:1],
    DOCUMENT,
    DOCUMENT,  # the same text twice
    DOCUMENT[:50],
    *(tokens(length) for length in (1, 7, 33, 64)),
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """The engine of a case in a precision, made once."""
    made = {}

    def engine(name, precision="fp32", *, shares_prefixes=True):
        key = name, precision, shares_prefixes
        if key in made:
            return made[key]
        folder = tmp_path_factory.mktemp("shared")
        case = CASES[name]
        build(folder / "hf", case)
        contract = EmbeddingContract(pooling=case.pooling, layer_norm=case.layer_norm)
        graph = write_packed_graph(
            folder, precision, contract, rows=ROWS, shares_prefixes=shares_prefixes
        )
        module = server_module(ENCODER, "onnxruntime_engine")
        made[key] = module.OnnxRuntimeEngine(graph, runtime="onnxruntime-cpu", intra_op_threads=1)
        return made[key]

    return engine


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-weights", "int4"])
@pytest.mark.parametrize("name", NAMES)
def test_a_rows_vector_is_bitwise_the_same_with_its_tokens_shared(name, precision, engines):
    engine = engines(name, precision)
    assert engine.shares_prefixes
    alone = encode_in_batches(engine, ROWS, 1)
    for seed, batch_rows in enumerate((2, 3, 5, 8, len(ROWS))):
        together = encode_in_batches(engine, ROWS, batch_rows, seed=seed)
        np.testing.assert_array_equal(together, alone)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_vector_of_the_graph_that_shares_nothing(name, engines):
    plain = engines(name, shares_prefixes=False)
    assert not plain.shares_prefixes
    expected = encode_in_batches(plain, ROWS, 1)
    vectors = encode_in_batches(engines(name), ROWS, len(ROWS))
    assert np.abs(vectors - expected).max() < 1e-5  # ONNX Runtime fuses the two differently


def work_of(engine, rows):
    lengths = np.array([len(row) for row in rows], np.int32)
    return engine.computed_work(np.concatenate(rows), lengths)


def test_what_is_shared_is_not_computed_and_counted(engines):
    # 20 tokens of a prompt and 60 others, no two alike at their first
    others = [np.full(length, length, np.int32) for length in (3, 4, 5, 8, 40)]
    queries = [np.concatenate([PROMPT, row]) for row in others]
    assert work_of(engines("qwen2", shares_prefixes=False), queries).tokens == 5 * 20 + 60
    work = work_of(engines("qwen2"), queries)
    assert (work.tokens, work.shared_tokens) == (20 + 60, 4 * 20)
    assert work.attention_cells == 5 * 60**2
    assert work_of(engines("qwen2"), [DOCUMENT, DOCUMENT]).tokens == 70


@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
def test_a_token_behind_a_whole_part_of_a_product_has_company(precision, engines):
    """ONNX Runtime multiplies weights in blocks by 128 rows at a time, and one row differently."""
    engine = engines("qwen2", precision)
    rows = [np.concatenate([PROMPT, tokens(length)]) for length in (60, 49)]
    assert work_of(engine, rows).tokens == 20 + 60 + 49 + 1
    vectors = encode_in_batches(engine, rows, 2)
    assert vectors.shape == (2, engine.dimensions)
    np.testing.assert_array_equal(vectors, encode_in_batches(engine, [*rows, DOCUMENT], 3)[:2])


def test_a_row_that_overflows_does_not_spoil_those_that_begin_alike(tmp_path):
    import torch  # noqa: TID251 - the checkpoint is made with it

    case = CASES["qwen2"]
    model = build(tmp_path / "hf", case)
    with torch.no_grad():
        model.embed_tokens.weight[100] = float("nan")
    model.save_pretrained(tmp_path / "hf")
    graph = model_graph(
        open_checkpoint(tmp_path / "hf"), precision="fp32", contract=EmbeddingContract()
    ).build(rotary_positions=256, version="0", shares_prefixes=True)
    ir.save(graph, tmp_path / "encoder.onnx", external_data="encoder.onnx.data")
    engine = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine(
        tmp_path / "encoder.onnx", runtime="onnxruntime-cpu", intra_op_threads=1
    )
    isolated_rows = server_module(ENCODER, "isolated_rows")
    goods = [[5, 6, 7, 8], [5, 6, 7, 8, 9, 10, 11], [5, 17, 18]]
    spoiled = []
    for bad in ([5, 6, 100, 9], [5, 6, 4, 100], [100], [5, 4, 100], goods[0] + [100]):
        rows = [np.array(row, np.int32) for row in (*goods, bad)]
        lengths = np.array([len(row) for row in rows], np.int32)
        first_try = partial(engine.encode, np.concatenate(rows), lengths)
        spoiled.append(int(np.isnan(first_try()).all(axis=1).sum()))
        results, work = isolated_rows.encode_isolating(engine, engine.encode, rows, first_try)
        assert [isinstance(result, Exception) for result in results] == [False] * 3 + [True]
        for row, vector in zip(goods, results, strict=False):
            np.testing.assert_array_equal(vector, encode_in_batches(engine, [row], 1)[0])
        assert work.tokens > work_of(engine, rows).tokens  # what is tried again is counted again
    assert max(spoiled) > 1  # a bad row that lends its attention to others is among these


def test_a_model_that_sees_both_directions_shares_nothing(tmp_path):
    build(tmp_path / "hf", CASES["bert, mean"])
    contract = EmbeddingContract(pooling="mean", attention="bidirectional")
    graph = model_graph(open_checkpoint(tmp_path / "hf"), precision="fp32", contract=contract)
    with pytest.raises(ValueError, match="causal"):
        graph.build(rotary_positions=64, version="0", shares_prefixes=True)
