"""Models with no packed graph: exported by optimum, compared with transformers, and served."""

import json
import time

import numpy as np
import pytest
import torch  # noqa: TID251 - the reference

from lasttoken import EmbeddingClient
from lasttoken import cli as client_cli
from lasttoken.local import LocalTriton
from lasttoken_export import cli
from lasttoken_export.model_config import parse_config
from lasttoken_export.model_sources import ENCODER, TOKENIZER
from lasttoken_export.padded.environment import optimum_python
from lasttoken_export.server_modules import server_module
from lasttoken_perf.served import read_metrics
from parity.padded_folders import SHAPE, write_random_folder
from parity.reference import assert_agree, encode_in_batches, last_token_vectors

TEXTS = ["a", "a longer text of some words", "日本語", "x" * 100, "two words", ""]


@pytest.fixture(scope="module", autouse=True)
def cached_environment(cache_folder):
    optimum_python(cache_folder)


@pytest.fixture(scope="module")
def mpnet(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "my-mpnet"
    return folder, write_random_folder(folder, "MPNet", pooling="mean", pad_token_id=1)


@pytest.fixture(scope="module")
def repository(mpnet, tmp_path_factory):
    """MPNet, padded, and a small Mistral, packed."""
    output = tmp_path_factory.mktemp("padded") / "repository"
    assert cli.main([str(mpnet[0]), "--output", str(output)]) == 0
    return output


@pytest.fixture(scope="module")
def mistral(repository, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "my-mistral"
    settings = {"num_key_value_heads": 2, "sliding_window": None}
    model = write_random_folder(folder, "Mistral", pooling="lasttoken", **settings)
    for form in ("packed", "padded"):
        arguments = ["--graph", form, "--name", f"mistral_{form}", "--output", str(repository)]
        assert cli.main([str(folder), *arguments]) == 0
    return model


@pytest.fixture(scope="module")
def rows():
    random = np.random.default_rng(3)
    lengths = [1, 2, 3, 5, 8, 13, 21, 34, 55, 60, 7, 7, 40, 64, 127]
    return [random.integers(3, SHAPE["vocab_size"], length, dtype=np.int32) for length in lengths]


def engine_of(repository, model):
    choice = server_module(ENCODER, "engine_choice")
    settings_module = server_module(ENCODER, "encoder_settings")
    folder = repository / f"{model}{ENCODER}"
    parameters = parse_config((folder / "config.pbtxt").read_text()).parameters
    settings = settings_module.EncoderSettings.from_parameters(
        {name: {"string_value": value.string_value} for name, value in parameters.items()}
    )
    return choice.open_engine(folder / "1", settings)


def mean_vectors(model, rows):
    vectors = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.from_numpy(np.asarray(row, np.int64))[None]
            hidden = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[0]
            vectors.append(torch.nn.functional.normalize(hidden.mean(0), dim=0).numpy())
    return np.stack(vectors)


def test_mpnet_padded_is_the_model(repository, mpnet, rows):
    vectors = encode_in_batches(engine_of(repository, "my_mpnet"), rows, 5)
    assert_agree(
        vectors, mean_vectors(mpnet[1], rows), lowest_cosine=0.99999, largest_difference=1e-4,
        name="mpnet, padded by optimum", rows=rows,
    )  # fmt: skip


def test_the_card_says_what_it_is(repository):
    card = json.loads((repository / "my_mpnet/1/card.json").read_text())
    assert (card["architecture"], card["graph_form"]) == ("MPNetModel", "padded")
    checks = card["checks"]
    assert checks["attention"] == "bidirectional"
    assert checks["parity_rows"] == 9
    assert checks["parity_lowest_cosine"] >= 0.99999
    assert 0 < checks["parity_largest_difference"] <= 1e-4
    assert "my_mpnet_encoder/1/encoder.onnx.data" in card["sha256"]


def test_the_graphs_of_optimum_and_ours_agree_on_a_decoder(repository, mistral, rows):
    """Two independent exports, of one checkpoint that transformers computes too."""
    padded = encode_in_batches(engine_of(repository, "mistral_padded"), rows, 5)
    packed = encode_in_batches(engine_of(repository, "mistral_packed"), rows, 5)
    for vectors, reference, made_by in (
        (padded, last_token_vectors(mistral, rows), "transformers"),
        (packed, padded, "optimum"),
    ):
        assert_agree(
            vectors, reference, lowest_cosine=0.99999, largest_difference=1e-4,
            name="mistral, padded by optimum" if vectors is padded else "mistral, packed",
            rows=rows, made_by=made_by,
        )  # fmt: skip


REAL_TOKENS = "lasttoken_encoder_real_tokens_total"


def settled_metrics(url, model, tokens):
    """Batches are counted after their answers are sent, one counter after the other."""
    deadline_s = time.monotonic() + 10
    before = None
    while True:
        figures = read_metrics(url, f'model="{model}{ENCODER}"')
        done = figures.get(REAL_TOKENS, 0) >= tokens and figures == before
        if done or time.monotonic() > deadline_s:
            return figures
        before = figures
        time.sleep(0.05)


@pytest.mark.server
def test_it_is_served_with_its_padding_counted(repository, mpnet, mistral, cache_folder, capsys):
    folder = repository / f"my_mpnet{TOKENIZER}" / "1"
    tokenizer = server_module(TOKENIZER, "text_tokenizer").load_text_tokenizer(folder)
    prompts = server_module(TOKENIZER, "prompts")
    ids = [row.ids for row in tokenizer.encode([prompts.PromptedText(text) for text in TEXTS])]
    real = sum(map(len, ids))
    models = ("my_mpnet", "mistral_packed")
    with LocalTriton(repository, cache_folder=cache_folder) as server:
        probe = {model: settled_metrics(server.metrics_url, model, 1) for model in models}
        with EmbeddingClient(server.grpc_url, "my_mpnet") as client:
            assert [m.name for m in client.list_models()] == [
                "mistral_packed", "mistral_padded", "my_mpnet",
            ]  # fmt: skip
            served = client.embed(TEXTS)
        assert_agree(
            served, mean_vectors(mpnet[1], ids), lowest_cosine=0.99999, largest_difference=1e-4
        )
        with EmbeddingClient(server.grpc_url, "mistral_packed") as client:
            client.embed(TEXTS)
        capsys.readouterr()
        assert client_cli.main(["models", "--url", server.grpc_url]) == 0
        listed = capsys.readouterr().out
        figures = {
            model: settled_metrics(server.metrics_url, model, real + probe[model][REAL_TOKENS])
            for model in models
        }

    [_, packed, padded, other] = listed.splitlines()
    assert packed.startswith("mistral_packed ")
    assert " fp32 " in packed
    assert " exact weights " in packed
    assert " cosine 1.00000 " in padded
    assert " cosine 1.00000 " in other

    def counted(model, name):
        name = f"lasttoken_encoder_{name}_total"
        return figures[model][name] - probe[model][name]

    for model in models:
        assert counted(model, "real_tokens") == real
        assert counted(model, "real_attention_cells") == sum(len(row) ** 2 for row in ids)
    computed = counted("mistral_packed", "computed_tokens")
    not_computed = (counted("mistral_packed", f"{kind}_tokens") for kind in ("shared", "kept"))
    assert computed + sum(not_computed) == real
    assert counted("my_mpnet", "shared_tokens") == counted("my_mpnet", "kept_tokens") == 0
    assert counted("my_mpnet", "computed_tokens") > real
    assert counted("my_mpnet", "computed_attention_cells") > counted(
        "my_mpnet", "real_attention_cells"
    )
