"""The demonstration model with its real weights, through the served repository's own files."""

import json
import warnings

import numpy as np
import onnx_ir as ir
import pytest
import torch  # noqa: TID251 - the reference
import transformers  # noqa: TID251 - the reference

from conftest import MODEL
from lasttoken_export.graph.decoder import DecoderGraph
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.corpus import long_tailed_texts
from parity.reference import assert_agree, encode_in_batches, last_token_vectors

OTHER_TEXTS = [
    "日本語のテキストを埋め込む。",
    "数字 1234567890 и кириллица",
    "emoji 🍰👩‍👩‍👧‍👦 and é e\u0301",
    "def f(x):\n    return {'a': x ** 2}  # code\n",
    " \t leading and trailing \n ",
    "",
    "مرحبا بالعالم",
    "<|im_end|> typed by a user <|endoftext|>",
]


@pytest.fixture(scope="module")
def reference_model(smollm2_checkpoint):
    """transformers' MistralModel with the same weights, read by our reader."""
    config = smollm2_checkpoint.config
    model = transformers.MistralModel(
        transformers.MistralConfig(
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            intermediate_size=config.intermediate_size,
            vocab_size=config.vocab_size,
            rms_norm_eps=config.rms_norm_eps,
            max_position_embeddings=config.max_positions,
            rope_theta=config.rope_theta,
            sliding_window=None,
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # arrays of the file are read-only; they are copied
        weights = {n: torch.from_numpy(smollm2_checkpoint.read(n)) for n in model.state_dict()}
    model.load_state_dict(weights, strict=True)
    return model.eval()


def load_engine(graph):
    engine = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine
    return engine(graph, runtime="onnxruntime-cpu", intra_op_threads=0)


@pytest.fixture(scope="module")
def rows(smollm2_repository):
    """Tokens of 200 varied texts, one of them at the maximum of 2,048."""
    folder = smollm2_repository / f"{MODEL}{TOKENIZER}" / "1"
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(folder)
    apply_prompt = server_module(TOKENIZER, "prompts").apply_prompt
    texts = [
        *OTHER_TEXTS,
        *long_tailed_texts(1, seed=1, median_words=3000, longest_words=3000),
        *long_tailed_texts(191, seed=2, median_words=14, longest_words=400),
    ]
    prompted = [
        apply_prompt(tokenizer.contract, text, prompt_name=None, instruction=None) for text in texts
    ]
    rows = [row.ids for row in tokenizer.encode(prompted)]
    assert len(rows) == 200
    assert max(map(len, rows)) == 2048
    return rows


@pytest.fixture(scope="module")
def references(reference_model, rows):
    return last_token_vectors(reference_model, rows)


@pytest.mark.slow
def test_fp32_is_the_model_and_bitwise_the_same_in_any_company(
    smollm2_repository, rows, references
):
    engine = load_engine(smollm2_repository / f"{MODEL}{ENCODER}" / "1" / "encoder.onnx")
    packed = encode_in_batches(engine, rows, 8)
    assert_agree(
        packed, references, lowest_cosine=0.99999, largest_difference=1e-4,
        name="smollm2-135m, real weights", rows=rows,
    )  # fmt: skip
    short = [index for index, row in enumerate(rows) if len(row) < 200]
    alone = encode_in_batches(engine, [rows[index] for index in short], 1)
    np.testing.assert_array_equal(alone, packed[short])


@pytest.mark.slow
def test_fp16_weights_stay_close(smollm2_checkpoint, rows, references, tmp_path):
    graph = DecoderGraph(smollm2_checkpoint, precision="fp16").build(
        rotary_positions=2048, version="0"
    )
    ir.save(graph, tmp_path / "encoder.onnx", external_data="encoder.onnx.data")
    chosen = [index for index, row in enumerate(rows) if len(row) < 600][:80]
    vectors = encode_in_batches(
        load_engine(tmp_path / "encoder.onnx"), [rows[index] for index in chosen], 6
    )
    assert_agree(
        vectors, references[chosen], lowest_cosine=0.9999, name="smollm2-135m, real weights",
        rows=[rows[index] for index in chosen], precision="fp16",
    )  # fmt: skip


def test_the_card_names_what_was_exported(smollm2_repository):
    card = json.loads((smollm2_repository / MODEL / "1" / "card.json").read_text())
    assert card["precision"] == "fp32"
    assert card["checks"]["bitwise_batch_invariant"] is True
    for path in card["sha256"]:
        assert (smollm2_repository / path).is_file()
