import gguf
import numpy as np
import pytest
from tokenizers import Tokenizer

from lasttoken_export.architectures import read_gguf_config
from lasttoken_export.checkpoint import GgufFile, open_model, validate_tensors
from lasttoken_export.checkpoint.gguf_names import canonical_gguf_name
from lasttoken_export.errors import (
    CorruptFile,
    InvalidCheckpoint,
    InvalidOption,
    MissingTensor,
    ModelNotFound,
    UnexpectedTensor,
    UnsupportedArchitecture,
    UnsupportedModel,
    UnsupportedTokenizer,
)
from lasttoken_export.model_entry import find_entry
from lasttoken_export.tokenizer.gguf_vocabulary import tokenizer_json_from_gguf
from unit.export.checkpoints import CONFIG, tensors, write_gguf

KINDS = gguf.GGMLQuantizationType
WORST_ERROR = {
    KINDS.F32: 0, KINDS.F16: 2e-3, KINDS.BF16: 2e-2, KINDS.Q8_0: 3e-2, KINDS.Q4_0: 0.6,
    KINDS.Q4_1: 0.5,
}  # fmt: skip


@pytest.mark.parametrize("kind", WORST_ERROR, ids=lambda kind: kind.name)
def test_weights_come_back_in_hugging_faces_order(tmp_path, kind):
    weights = tensors()
    file = GgufFile(write_gguf(tmp_path / "m.gguf", weights, kind=kind))
    validate_tensors(file)
    for name, array in weights.items():
        found = file.read(name).astype(np.float32)
        assert found.shape == array.shape
        worst = 0 if array.ndim == 1 else WORST_ERROR[kind]
        np.testing.assert_allclose(found, array, atol=worst, rtol=0)


@pytest.mark.parametrize("family", ["Qwen2", "Qwen3"])
def test_the_qwen_families_are_not_permuted_and_keep_biases_and_head_norms(tmp_path, family):
    weights = tensors({**CONFIG, "architectures": [f"{family}Model"]})
    special = "self_attn.q_proj.bias" if family == "Qwen2" else "self_attn.k_norm.weight"
    assert f"layers.1.{special}" in weights
    path = write_gguf(tmp_path / "m.gguf", weights, architecture=family.lower())
    file = GgufFile(path)
    validate_tensors(file)
    for name, array in weights.items():
        np.testing.assert_array_equal(file.read(name), array)


@pytest.mark.parametrize(
    ("metadata", "name"),
    [
        ({"general.name": "SFR Embedding Mistral"}, "sfr-embedding-mistral"),
        ({"general.name": "e5-mistral-7b-instruct"}, "e5-mistral-7b-instruct"),
        ({"general.basename": "Qwen3-Embedding", "general.size_label": "0.6B"},
         "qwen3-embedding-0.6b"),
        ({"general.name": "x", "general.source.url": "https://h/Salesforce/SFR-Embedding-2_R"},
         "sfr-embedding-2"),
        ({"general.name": "Mistral-7B"}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_a_catalogues_model_is_recognised(tmp_path, metadata, name):
    file = GgufFile(write_gguf(tmp_path / "m.gguf", **metadata))
    if name is None:
        with pytest.raises(InvalidOption, match="--like"):
            find_entry("m.gguf", None, file)
    else:
        assert find_entry("m.gguf", None, file).name == name
    other = find_entry("m.gguf", "bge-m3", file)
    assert (other.name, other.model_name, other.licence.id) == ("bge-m3", "m", "unknown")
    if name is not None:
        assert find_entry("m.gguf", name, file).licence.id != "unknown"


def test_a_folder_of_gguf_files_is_told_to_name_one(tmp_path):
    for name in ("m-Q8_0.gguf", "m-F16.gguf"):
        write_gguf(tmp_path / name)
    with pytest.raises(ModelNotFound, match=r"its GGUF files: m-F16\.gguf, m-Q8_0\.gguf$"):
        open_model(str(tmp_path))


def test_a_missing_tensor(tmp_path):
    path = write_gguf(tmp_path / "m.gguf", skip=("blk.1.ffn_up",))
    with pytest.raises(MissingTensor, match=r"layers\.1\.mlp\.up_proj"):
        validate_tensors(GgufFile(path))


@pytest.mark.parametrize("keep", [0, 3, 30, 400, -200])
def test_a_truncated_file(tmp_path, keep):
    path = write_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(CorruptFile, match=r"m\.gguf .*download it again"):
        GgufFile(path)


def test_another_file_or_architecture(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF" + b"\xff" * 100)
    with pytest.raises(CorruptFile):
        GgufFile(tmp_path / "x.gguf")
    path = write_gguf(tmp_path / "m.gguf", **{"llama.rope.dimension_count": 2})
    with pytest.raises(UnsupportedArchitecture):
        GgufFile(path)


def test_names():
    assert canonical_gguf_name("output.weight", "llama") is None
    assert (
        canonical_gguf_name("blk.12.ffn_gate.weight", "llama") == "layers.12.mlp.gate_proj.weight"
    )
    bert, nomic = "encoder.layer.1.output.dense.bias", "encoder.layers.1.attn.Wqkv.weight"
    assert canonical_gguf_name("blk.1.ffn_down.bias", "bert") == bert
    assert canonical_gguf_name("blk.1.attn_qkv.weight", "nomic-bert") == nomic
    with pytest.raises(UnexpectedTensor, match="'bert'"):
        canonical_gguf_name("blk.1.attn_qkv.weight", "bert")
    for stranger in ("blk.0.ffn_gate_inp.weight", "blk.x.ffn_up.weight", "token_embd.scale"):
        with pytest.raises(UnexpectedTensor, match="not one of"):
            canonical_gguf_name(stranger, "llama")


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "'rwkv' with 1 tokens"),
        ({"tokenizer.ggml.model": "bert"}, r"no '\[UNK\]', or a token twice"),
        ({"tokenizer.ggml.model": "t5"}, "no scores or not one unknown piece"),
        (
            {
                "tokenizer.ggml.model": "t5",
                "tokenizer.ggml.token_type": [2],
                "tokenizer.ggml.scores": [0.0],
                "tokenizer.ggml.remove_extra_whitespaces": False,
            },
            "keeps white space",
        ),
        ({"tokenizer.ggml.pre": "tekken"}, "'tekken'; known are"),
        ({"tokenizer.ggml.model": "llama", "tokenizer.ggml.add_space_prefix": False}, "no space"),
        ({"tokenizer.ggml.model": "llama"}, "byte fallback"),
        ({"tokenizer.ggml.token_type": []}, "kind 'gpt2'"),
    ],
)
def test_vocabularies_that_cannot_be_rebuilt(metadata, message):
    whole = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["a"],
        "tokenizer.ggml.token_type": [1],
        "tokenizer.ggml.merges": [],
    }
    tokenizer_json_from_gguf(whole)
    with pytest.raises(UnsupportedTokenizer, match=message):
        tokenizer_json_from_gguf(whole | metadata)


ENCODER = {
    "general.architecture": "bert", "bert.embedding_length": 32, "bert.block_count": 2,
    "bert.attention.head_count": 4, "bert.feed_forward_length": 64, "bert.context_length": 16,
    "bert.attention.layer_norm_epsilon": np.float32(1e-12), "bert.attention.causal": False,
}  # fmt: skip
TABLES = {
    "embeddings.word_embeddings.weight": (40, 32),
    "embeddings.token_type_embeddings.weight": (2, 32),
}


def test_the_metadata_of_an_encoder():
    config = read_gguf_config(ENCODER, TABLES)
    assert (config.vocab_size, config.type_vocab_size, config.max_positions) == (40, 2, 16)
    assert (config.layer_norm_eps, config.position_offset, config.is_nomic) == (1e-12, 0, False)
    nomic = {key.replace("bert.", "nomic-bert."): value for key, value in ENCODER.items()}
    nomic |= {"general.architecture": "nomic-bert", "nomic-bert.rope.freq_base": 1000.0}
    assert read_gguf_config(nomic, TABLES).rope_theta == 1000.0


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"bert.attention.causal": True}, UnsupportedArchitecture),
        ({"bert.rope.scaling.type": "linear"}, UnsupportedArchitecture),
        ({"general.architecture": "jina-bert-v2"}, UnsupportedArchitecture),
        ({"bert.context_length": 0}, InvalidCheckpoint),
        ({"bert.embedding_length": None}, InvalidCheckpoint),
    ],
)
def test_an_encoder_that_is_not_implemented_is_refused(change, error):
    with pytest.raises(error):
        read_gguf_config({**ENCODER, **change}, TABLES)


def test_words_get_their_published_spelling_back():
    metadata = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.tokens": ["[UNK]", "\u2581un", "able", "\u2581##", "\u2581cafe"],
        "tokenizer.ggml.token_type": [3, 1, 1, 1, 1],
        "tokenizer.ggml.normalizer.lowercase": True,
    }
    tokenizer = Tokenizer.from_str(tokenizer_json_from_gguf(metadata))
    assert tokenizer.get_vocab() == {"[UNK]": 0, "un": 1, "##able": 2, "##": 3, "cafe": 4}
    assert tokenizer.encode("Unable CAF\u00c9 ?").ids == [1, 2, 4, 0]


def test_a_tokenizer_beside_the_file_is_preferred(tmp_path):
    file = GgufFile(write_gguf(tmp_path / "m.gguf"))
    with pytest.raises(UnsupportedTokenizer):
        file.tokenizer_json()
    (tmp_path / "tokenizer.json").write_text("{}")
    assert file.tokenizer_json() == "{}"


def test_a_block_whose_scale_is_infinite(tmp_path):
    """The first half float of a Q4_0 block scales its 32 elements."""
    path = write_gguf(tmp_path / "m.gguf", kind=KINDS.Q4_0)
    name, whole = "layers.0.mlp.up_proj.weight", path.read_bytes()
    quantised = gguf.quantize(np.ascontiguousarray(tensors()[name]), KINDS.Q4_0).tobytes()
    at = whole.index(quantised)
    path.write_bytes(whole[:at] + b"\x00\x7c" + whole[at + 2 :])
    with pytest.raises(CorruptFile, match=r"up_proj\.weight' that are no finite numbers"):
        GgufFile(path).read(name)


def test_a_file_for_big_endian_machines(tmp_path):
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x00\x00\x00\x03" + bytes(100))
    with pytest.raises(UnsupportedModel, match="big-endian"):
        GgufFile(tmp_path / "m.gguf")
