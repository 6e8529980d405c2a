"""Makes the files of this folder: a tiny model quantised by llama.cpp, and llama.cpp's embeddings.

Run by `make gguf-files`, in an environment of its own with llama-cpp-python, gguf and numpy. The
files are kept under version control, since building llama.cpp takes longer than all tests.
"""

import ctypes
import sys
from pathlib import Path

import gguf
import llama_cpp
import numpy as np

FOLDER = Path(__file__).parent
HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY = 256, 256, 4, 2, 64  # rows of 256: a K-quant's block
KINDS = ("Q8_0", "Q4_0", "Q3_K_M", "Q4_K_M", "Q5_K_M", "Q6_K")
LENGTHS = (1, 2, 5, 9, 17, 33, 40, 63)


def write_float_file(path):
    random = np.random.default_rng(4)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(VOCABULARY)
    writer.add_tokenizer_model("no_vocab")
    keys = HIDDEN // HEADS * KV_HEADS
    shapes = {
        "token_embd": (VOCABULARY, HIDDEN),
        "blk.0.attn_q": (HIDDEN, HIDDEN),
        "blk.0.attn_k": (keys, HIDDEN),
        "blk.0.attn_v": (keys, HIDDEN),
        "blk.0.attn_output": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate": (INNER, HIDDEN),
        "blk.0.ffn_up": (INNER, HIDDEN),
        "blk.0.ffn_down": (HIDDEN, INNER),
    }
    for name, shape in shapes.items():
        scale = 1.0 if name == "token_embd" else HIDDEN**-0.5
        weight = (random.normal(size=shape) * scale).astype(np.float32)
        writer.add_tensor(f"{name}.weight", weight)
    for name in ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm"):
        weight = (1 + random.normal(size=HIDDEN) * 0.1).astype(np.float32)
        writer.add_tensor(f"{name}.weight", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def quantise(source, target, kind):
    settings = llama_cpp.llama_model_quantize_default_params()
    settings.ftype = getattr(llama_cpp, f"LLAMA_FTYPE_MOSTLY_{kind}")
    failed = llama_cpp.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(settings)
    )
    assert not failed, kind


def embed(path, rows):
    model = llama_cpp.llama_model_load_from_file(
        str(path).encode(), llama_cpp.llama_model_default_params()
    )
    assert model, path
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = 128
    settings.embeddings = True
    settings.pooling_type = llama_cpp.LLAMA_POOLING_TYPE_LAST
    vectors = []
    for row in rows:
        context = llama_cpp.llama_init_from_model(model, settings)
        batch = llama_cpp.llama_batch_init(len(row), 0, 1)
        batch.n_tokens = len(row)
        for place, token in enumerate(row):
            batch.token[place] = int(token)
            batch.pos[place] = place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = 1
        assert llama_cpp.llama_decode(context, batch) == 0
        vector = np.array(llama_cpp.llama_get_embeddings_seq(context, 0)[:HIDDEN], np.float32)
        vectors.append(vector / np.linalg.norm(vector))
        llama_cpp.llama_batch_free(batch)
        llama_cpp.llama_free(context)
    llama_cpp.llama_model_free(model)
    return np.stack(vectors)


def main():
    llama_cpp.llama_backend_init()
    random = np.random.default_rng(5)
    rows = [random.integers(0, VOCABULARY, length).astype(np.int32) for length in LENGTHS]
    source = FOLDER / "float.tmp"
    write_float_file(source)
    vectors = {"F32": embed(source, rows)}
    for kind in KINDS:
        target = FOLDER / f"tiny-{kind}.gguf"
        quantise(source, target, kind)
        vectors[kind] = embed(target, rows)
    source.unlink()
    lengths = np.array(LENGTHS, np.int32)
    np.savez(FOLDER / "embeddings.npz", input_ids=np.concatenate(rows), lengths=lengths, **vectors)
    print(f"written by llama-cpp-python {llama_cpp.__version__}", file=sys.stderr)


if __name__ == "__main__":
    main()
