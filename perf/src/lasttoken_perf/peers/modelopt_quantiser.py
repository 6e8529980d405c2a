"""nvidia-modelopt's fake quantisation of a Hugging Face model, and the vectors that come of it.

Nothing is padded: rows of tokens lie back to back, each attending to itself alone at its own
positions, and are pooled one by one. One call a row would do the same slower; AWQ's search
quantises every weight anew for each call and each of eleven strengths. Without quantisation the
vectors must be the exporter's, which the caller checks: that checks the packing too. The model is
float32; what modelopt quantises is rounded and multiplied as float32. A report says which linear
layers there are and which quantisers are on.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.peers.process import Embedder, serve_peer

_PACKED_TOKENS = 1024
"""Of a call; a longer row is alone."""


def load(settings: dict[str, Any]) -> Embedder:
    """Load ``settings["folder"]`` and quantise it.

    ``attention`` is "causal" or "bidirectional"; ``config`` names a configuration of modelopt's,
    None for none; ``block_size`` replaces that of its weights, None to leave it; ``linears_only``
    leaves inputs of norms alone, which modelopt quantises where they are torch's own ``LayerNorm``;
    ``calibration`` and ``rows`` are lists of rows of token ids; ``report`` is the file of the
    report.
    """
    import modelopt
    import modelopt.torch.quantization as mtq
    import torch  # noqa: TID251 - a peer
    import transformers  # noqa: TID251 - a peer

    model = transformers.AutoModel.from_pretrained(settings["folder"], dtype=torch.float32)
    model.eval()
    model.config.use_cache = False
    if getattr(model, "pooler", None) is not None:
        model.pooler = None  # a head for another task, whose weights no embedder has

    most_tokens = min(_PACKED_TOKENS, model.config.max_position_embeddings)

    def run(pack: Sequence[list[int]]) -> Any:
        """Return the hidden states ``[tokens, dim]`` of rows that lie back to back."""
        lengths = torch.tensor([len(row) for row in pack])
        owner = torch.repeat_interleave(torch.arange(len(pack)), lengths)  # [tokens]
        mask = owner[:, None] == owner[None, :]  # [tokens, tokens]
        causal = settings["attention"] == "causal"
        return (
            model(
                input_ids=torch.tensor([[token for row in pack for token in row]]),
                position_ids=torch.cat([torch.arange(len(row)) for row in pack])[None],
                attention_mask=mask.tril()[None, None] if causal else mask[None].long(),
            )
            .last_hidden_state[0]
            .float()
        )

    def calibrate(_: Any) -> None:
        for pack in cut_rows(settings["calibration"], most_tokens):
            run(pack)

    widths = {
        name: module.in_features
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    if settings["config"] is not None:
        config = copy.deepcopy(getattr(mtq, settings["config"]))
        if settings["block_size"] is not None:
            set_block_size(config, settings["block_size"])
        if settings["linears_only"]:
            config["quant_cfg"].append(
                {"quantizer_name": "*", "parent_class": "nn.LayerNorm", "enable": False}
            )
        with torch.no_grad():
            model = mtq.quantize(model, config, calibrate)
    report = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "input_widths": widths,
        "quantisers": _quantisers(model),
    }
    Path(settings["report"]).write_text(json.dumps(report))

    if settings["config"] is not None:
        mtq.fold_weight(model)  # rounded once, not at every call

    def corpus() -> NDArray[np.float32]:
        vectors = []
        with torch.inference_mode():
            for pack in cut_rows(settings["rows"], most_tokens):
                for hidden in run(pack).split([len(row) for row in pack]):
                    pooled = _pool(hidden, settings["pooling"])
                    vectors.append(torch.nn.functional.normalize(pooled, dim=0).numpy())
        return np.stack(vectors)

    return Embedder(version=modelopt.__version__, corpus=corpus, single=_no_queries)


def cut_rows(rows: Sequence[list[int]], tokens: int) -> Iterator[list[list[int]]]:
    """Yield rows in their order, in groups of at most so many tokens; a longer row is alone."""
    pack: list[list[int]] = []
    for row in rows:
        if pack and sum(map(len, pack)) + len(row) > tokens:
            yield pack
            pack = []
        pack.append(row)
    if pack:
        yield pack


def set_block_size(config: dict[str, Any], block_size: int) -> None:
    """Give the weights of one of modelopt's configurations another size of block."""
    found = False
    for entry in config["quant_cfg"]:
        sizes = (entry.get("cfg") or {}).get("block_sizes")
        if "weight_quantizer" in entry["quantizer_name"] and sizes:
            sizes[-1] = block_size
            found = True
    if not found:
        raise ValueError(f"modelopt's configuration has no blocks of weights: {config!r}")


def _quantisers(model: Any) -> dict[str, str]:
    """Return the quantisers that are on, by name, each with what modelopt says of it."""
    from modelopt.torch.quantization.nn import TensorQuantizer

    return {
        name: str(module)
        for name, module in model.named_modules()
        if isinstance(module, TensorQuantizer) and module.is_enabled
    }


def _pool(hidden: Any, pooling: str) -> Any:
    if pooling == "mean":
        return hidden.mean(0)
    return hidden[0] if pooling == "cls" else hidden[-1]


def _no_queries(index: int) -> NDArray[np.float32]:
    raise IndexError(index)


if __name__ == "__main__":
    serve_peer(load)
