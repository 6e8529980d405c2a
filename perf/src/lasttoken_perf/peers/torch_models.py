"""transformers, optimum's ONNX Runtime model and OpenVINO: padded batches of 32, ordered by length.

They know tokenizer and model only; pooling and normalisation are written out here, as their model
cards tell users to do. The order of length is what a careful user does by hand.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.peers.process import Embedder, serve_peer

_BATCH = 32


def _openvino(settings: dict[str, Any]) -> tuple[Any, str]:
    """OpenVINO's model behind transformers' way of calling one, and its version."""
    import torch  # noqa: TID251 - a peer
    from transformers.modeling_outputs import BaseModelOutput  # noqa: TID251 - a peer

    from lasttoken_perf.peers.openvino_model import OpenVinoModel

    engine = OpenVinoModel(
        settings["folder"], precision=settings["precision"], threads=settings["threads"]
    )

    def model(input_ids: Any, attention_mask: Any, **_: Any) -> Any:
        hidden = engine.last_hidden_state(input_ids.numpy(), attention_mask.numpy())
        return BaseModelOutput(torch.from_numpy(hidden))

    return model, engine.version


def load(settings: dict[str, Any]) -> Embedder:
    """Load ``settings["folder"]``; ``library`` is "transformers", "optimum" or "openvino"."""
    import torch  # noqa: TID251 - a peer
    import transformers  # noqa: TID251 - a peer

    tokenizer = transformers.AutoTokenizer.from_pretrained(settings["folder"])
    tokenizer.padding_side = "right"
    if settings["library"] == "openvino":
        model, version = _openvino(settings)
    elif settings["library"] == "optimum":
        import optimum.version
        from optimum.onnxruntime import ORTModelForFeatureExtraction

        model = ORTModelForFeatureExtraction.from_pretrained(settings["folder"], export=True)
        version = str(optimum.version.__version__)
    else:
        model = transformers.AutoModel.from_pretrained(settings["folder"], dtype=torch.float32)
        model.eval()
        version = transformers.__version__
    # Decoders that optimum exports want them, and its feature extraction does not make them.
    wants_positions = "position_ids" in getattr(model, "input_names", ())
    texts, queries, pooling = settings["texts"], settings["queries"], settings["pooling"]

    def embed(batch: list[str]) -> NDArray[np.float32]:
        tokens = tokenizer(
            batch,
            padding=True,
            truncation=True,
            max_length=settings["max_length"],
            return_tensors="pt",
        )
        if wants_positions:
            rows, longest = tokens["input_ids"].shape
            tokens["position_ids"] = torch.arange(longest).expand(rows, longest)
        with torch.inference_mode():
            hidden = model(**tokens).last_hidden_state.float()  # [rows, longest, dim]
        mask = tokens["attention_mask"]
        if pooling == "mean":
            weights = mask.unsqueeze(-1).float()
            pooled = (hidden * weights).sum(1) / weights.sum(1)
        elif pooling == "cls":
            pooled = hidden[:, 0]
        else:
            pooled = hidden[torch.arange(len(batch)), mask.sum(1) - 1]
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(pooled, dim=1).numpy()
        return vectors

    order = sorted(range(len(texts)), key=lambda index: len(texts[index]))

    def corpus() -> NDArray[np.float32]:
        parts = [
            embed([texts[index] for index in order[start : start + _BATCH]])
            for start in range(0, len(order), _BATCH)
        ]
        vectors = np.empty((len(texts), parts[0].shape[1]), np.float32)
        vectors[order] = np.concatenate(parts)
        return vectors

    embed(texts[:_BATCH])  # warm
    return Embedder(version=version, corpus=corpus, single=lambda index: embed([queries[index]])[0])


if __name__ == "__main__":
    serve_peer(load)
