"""Rows that begin with tokens of an earlier batch, and no vector shows it: small checkpoints."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from lasttoken_export.checkpoint import open_checkpoint
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from parity.packed_files import write_packed_graph
from parity.reference import encode_in_batches
from parity.test_architectures import CASES, SHAPE, build

NAMES = [
    name
    for name, case in CASES.items()
    if case.attention == "causal" and case.pooling == "last_token"
]
RANDOM = np.random.default_rng(5)


def tokens(length):
    return RANDOM.integers(3, SHAPE["vocab_size"], length, dtype=np.int32)


PROMPT, OTHER_PROMPT, DOCUMENT = tokens(20), tokens(12), tokens(70)
ROWS = [
    *(np.concatenate([PROMPT, tokens(length)]) for length in (1, 2, 5, 12, 40)),
    *(np.concatenate([OTHER_PROMPT, tokens(length)]) for length in (1, 6, 30)),
    *(np.concatenate([PROMPT[:14], tokens(length)]) for length in (3, 9)),
    PROMPT,  # its last token is pooled, so all of it but this is kept
    PROMPT[:9],
    DOCUMENT,
    *(tokens(length) for length in (1, 7, 33, 64)),
]


@pytest.fixture(scope="module")
def engines(tmp_path_factory):
    """A new engine on the graph of a case in a precision, the graph made once."""
    made = {}

    def engine(name, precision="fp32", *, max_tokens=200):
        key = name, precision
        if key not in made:
            made[key] = folder = tmp_path_factory.mktemp("kept")
            case = CASES[name]
            build(folder / "hf", case)
            write_graph(folder, precision, pooling=case.pooling, layer_norm=case.layer_norm)
        return open_engine(made[key], max_tokens)

    return engine


def write_graph(folder, precision, **contract):
    forms = {"shares_prefixes": True, "keeps_prefixes": True}
    write_packed_graph(folder, precision, EmbeddingContract(**contract), rows=ROWS, **forms)


def open_engine(folder, max_tokens):
    module = server_module(ENCODER, "onnxruntime_engine")
    streams = server_module(ENCODER, "streams").Streams(count=2, sessions=2)
    engine = module.OnnxRuntimeEngine(
        folder / "encoder.onnx", runtime="onnxruntime-cpu", intra_op_threads=1, streams=streams
    )
    engine.keep_prefixes(max_tokens)
    return engine


def work_of(engine, rows):
    lengths = np.array([len(row) for row in rows], np.int32)
    return engine.computed_work(np.concatenate(rows), lengths)


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8", "int8-weights", "int4"])
@pytest.mark.parametrize("name", NAMES)
def test_a_rows_vector_is_bitwise_the_same_behind_kept_tokens(name, precision, engines):
    alone = encode_in_batches(engines(name, precision, max_tokens=0), ROWS, 1)
    engine = engines(name, precision)
    encode_in_batches(engine, ROWS, 1)
    assert work_of(engine, ROWS[1:2]).tokens == 2
    for seed, batch_rows in enumerate((1, 2, 3, 5, 8, len(ROWS))):
        begun = encode_in_batches(engine, ROWS, batch_rows, seed=seed)
        np.testing.assert_array_equal(begun, alone)
        # And kept from a batch of this size in the first place.
        fresh = engines(name, precision)
        for _ in range(2):
            begun = encode_in_batches(fresh, ROWS, batch_rows, seed=seed)
            np.testing.assert_array_equal(begun, alone)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_streams_begin_with_what_others_have_kept(precision, engines):
    """Whole batches, streams and rows beside bulk run at once, and keep for each other."""
    alone = encode_in_batches(engines("qwen2", precision, max_tokens=0), ROWS, 1)
    engine = engines("qwen2", precision)
    wrong = []

    def work(encode, seed):
        random = np.random.default_rng(seed)
        for _ in range(40):
            chosen = random.choice(len(ROWS), random.integers(1, 6))
            lengths = np.array([len(ROWS[index]) for index in chosen], np.int32)
            vectors = encode(np.concatenate([ROWS[index] for index in chosen]), lengths)
            if not np.array_equal(vectors, alone[chosen]):
                wrong.append(chosen)

    encodes = (engine.encode, engine.encode, engine.encode_in_stream, engine.encode_in_stream)
    threads = [
        threading.Thread(target=work, args=arguments)
        for arguments in zip(encodes, range(4), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert work_of(engine, ROWS[:1]).kept_tokens == 20


def test_what_is_kept_is_not_computed_and_counted(engines):
    engine = engines("qwen2")
    # No two alike at their first token behind the prompt.
    queries = [
        np.concatenate([PROMPT, np.full(length, length, np.int32)]) for length in (3, 4, 5, 8, 40)
    ]
    assert work_of(engine, queries[:1]) == work_of(engines("qwen2", max_tokens=0), queries[:1])
    encode_in_batches(engine, queries, 1)
    work = work_of(engine, queries[2:3])
    assert (work.tokens, work.shared_tokens, work.kept_tokens) == (5, 0, 20)
    assert work.attention_cells == 25**2
    work = work_of(engine, [*queries, DOCUMENT])
    assert (work.tokens, work.shared_tokens, work.kept_tokens) == (60 + 70, 4 * 20, 20)


def test_a_text_that_comes_again_is_computed_again(engines):
    engine = engines("qwen2")
    for _ in range(3):
        encode_in_batches(engine, [DOCUMENT, tokens(50)], 1)
        assert work_of(engine, [DOCUMENT]).tokens == len(DOCUMENT)


def test_nothing_is_kept_on_a_gpu(engines):
    engine = engines("qwen2", max_tokens=0)
    engine.runs_beside = False  # as it is on one
    engine.keep_prefixes(200)
    encode_in_batches(engine, ROWS, 3)
    assert work_of(engine, ROWS[:1]).kept_tokens == 0


def test_nothing_is_kept_unasked_nor_of_a_graph_that_takes_nothing(engines, tmp_path):
    engine = engines("qwen2", max_tokens=0)
    encode_in_batches(engine, ROWS, 3)
    assert work_of(engine, ROWS[:1]).kept_tokens == 0
    build(tmp_path / "hf", CASES["qwen2"])
    write_packed_graph(tmp_path, "fp32", EmbeddingContract(), rows=ROWS, shares_prefixes=True)
    older = open_engine(tmp_path, 200)
    vectors = encode_in_batches(older, ROWS, 3)
    assert work_of(older, ROWS[:1]).kept_tokens == 0
    assert np.abs(vectors - encode_in_batches(engine, ROWS, 1)).max() < 1e-5


def test_a_row_that_overflows_leaves_nothing_behind(tmp_path):
    import torch  # noqa: TID251 - the checkpoint is made with it

    model = build(tmp_path / "hf", CASES["qwen2"])
    with torch.no_grad():
        model.embed_tokens.weight[100] = float("nan")
    model.save_pretrained(tmp_path / "hf")
    write_graph(tmp_path, "fp32")
    engine = open_engine(tmp_path, 200)
    good = [np.array([*range(5, 25), last], np.int32) for last in (30, 31, 32)]
    bad = [np.array([*range(5, 25), 100, last], np.int32) for last in (30, 31)]
    inside = [np.array([*range(5, 15), 100, *range(16, 25), last], np.int32) for last in (30, 31)]
    expected = encode_in_batches(open_engine(tmp_path, 0), good, 1)
    isolated_rows = server_module(ENCODER, "isolated_rows")
    for _ in range(2):
        for rows in ([bad[0], good[0]], [bad[1]], inside, [good[1], *bad], [good[2]]):
            lengths = np.array(list(map(len, rows)), np.int32)
            results, _ = isolated_rows.encode_isolating(
                engine,
                engine.encode,
                rows,
                lambda rows=rows, lengths=lengths: engine.encode(np.concatenate(rows), lengths),
            )
            for row, result in zip(rows, results, strict=True):
                if 100 in row:
                    assert isinstance(result, Exception)
                else:
                    [place] = [n for n, one in enumerate(good) if one is row]
                    np.testing.assert_array_equal(result, expected[place])
    assert work_of(engine, good[:1]).kept_tokens == 20


@pytest.mark.parametrize("options", [{"shares_prefixes": False}, {"pooling": "mean"}])
def test_a_graph_that_could_not_begin_with_kept_tokens_is_not_built(options, tmp_path):
    build(tmp_path / "hf", CASES["qwen2"])
    contract = EmbeddingContract(pooling=options.get("pooling", "last_token"))
    graph = model_graph(open_checkpoint(tmp_path / "hf"), precision="fp32", contract=contract)
    shares = options.get("shares_prefixes", True)
    with pytest.raises(ValueError, match="pool their last one"):
        graph.build(rotary_positions=64, version="0", shares_prefixes=shares, keeps_prefixes=True)


def test_what_is_of_use_stays(engines):
    engine = engines("qwen2", max_tokens=50)
    encode_in_batches(engine, ROWS[1:3], 1)
    for _ in range(4):
        others = tokens(15)
        encode_in_batches(engine, [np.concatenate([others, tokens(3)]) for _ in range(2)], 1)
        assert work_of(engine, ROWS[3:4]).kept_tokens == 20
        encode_in_batches(engine, ROWS[3:4], 1)


@pytest.mark.parametrize("precision", ["int4", "int8-weights"])
def test_a_batch_with_company_can_be_kept_from(precision, engines):
    """A token alone behind 128 others is given a row beside it, whose vector is nobody's."""
    engine = engines("qwen2", precision)
    encode_in_batches(engine, ROWS[:1], 1)
    row = np.concatenate([PROMPT, tokens(109)])
    vector = engine.encode(row, np.array([129], np.int32))
    assert vector.shape == (1, engine.dimensions)
    assert work_of(engine, ROWS[1:2]).kept_tokens == 20
    # Behind the prompt one token, again with company.
    again = engine.encode(ROWS[0], np.array([21], np.int32))
    np.testing.assert_array_equal(again, encode_in_batches(engine, [ROWS[0], row], 2)[:1])
    np.testing.assert_array_equal(vector, encode_in_batches(engine, [ROWS[0], row], 2)[1:])
