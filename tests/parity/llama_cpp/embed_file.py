"""llama.cpp's own tokens and embeddings of a GGUF file, in an environment of its own.

``python embed_file.py FILE OUTPUT.npz [ROWS.npz]``: embeds the rows of token ids (``input_ids
[T]``, ``lengths [B]``), or else tokenizes `encoder_texts.TEXTS` with the file's own vocabulary,
special tokens and all, and embeds those. Writes ``input_ids``, ``lengths`` and ``vectors [B, D]``.
"""

import sys

import llama_cpp
import numpy as np
from encoder_texts import TEXTS


def tokenize(model, text):
    vocabulary = llama_cpp.llama_model_get_vocab(model)
    data = text.encode()
    ids = (llama_cpp.llama_token * (len(data) + 8))()
    count = llama_cpp.llama_tokenize(vocabulary, data, len(data), ids, len(ids), True, False)
    assert count >= 0, text
    return np.array(ids[:count], np.int32)


def embed(model, rows, *, pooling=llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED):
    settings = llama_cpp.llama_context_default_params()
    settings.n_ctx = settings.n_batch = settings.n_ubatch = max(map(len, rows)) + 1
    settings.embeddings = True
    settings.pooling_type = pooling
    dimensions = llama_cpp.llama_model_n_embd(model)
    context = llama_cpp.llama_init_from_model(model, settings)
    vectors = []
    for row in rows:
        if memory := llama_cpp.llama_get_memory(context):
            llama_cpp.llama_memory_clear(memory, True)
        batch = llama_cpp.llama_batch_init(len(row), 0, 1)
        batch.n_tokens = len(row)
        for place, token in enumerate(row):
            batch.token[place] = int(token)
            batch.pos[place] = place
            batch.n_seq_id[place] = 1
            batch.seq_id[place][0] = 0
            batch.logits[place] = 1
        assert llama_cpp.llama_decode(context, batch) == 0
        found = llama_cpp.llama_get_embeddings_seq(context, 0)[:dimensions]
        vector = np.array(found, np.float32)
        vectors.append(vector / np.linalg.norm(vector))
        llama_cpp.llama_batch_free(batch)
    llama_cpp.llama_free(context)
    return np.stack(vectors)


def main():
    path, output, *given = sys.argv[1:]
    llama_cpp.llama_backend_init()
    model = llama_cpp.llama_model_load_from_file(
        path.encode(), llama_cpp.llama_model_default_params()
    )
    assert model, path
    pooling = llama_cpp.LLAMA_POOLING_TYPE_UNSPECIFIED
    if given:
        with np.load(given[0]) as file:
            rows = np.split(file["input_ids"], np.cumsum(file["lengths"])[:-1])
            if "last_token" in file:
                pooling = llama_cpp.LLAMA_POOLING_TYPE_LAST
    else:
        rows = [tokenize(model, text) for text in TEXTS]
    np.savez(
        output,
        input_ids=np.concatenate(rows),
        lengths=np.array([len(row) for row in rows], np.int32),
        vectors=embed(model, rows, pooling=pooling),
    )


if __name__ == "__main__":
    main()
