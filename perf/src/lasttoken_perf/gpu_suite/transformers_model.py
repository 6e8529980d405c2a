"""transformers' own MistralModel on the same random weights: the reference, and a contestant."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch  # noqa: TID251 - the reference
from numpy.typing import NDArray

from lasttoken_perf.gpu_suite.random_weights import RandomWeights
from lasttoken_perf.gpu_suite.shapes import SHAPES


def load_mistral(weights: RandomWeights, *, shape: str, device: str, dtype: torch.dtype) -> Any:
    """Return a ``transformers.MistralModel`` on the device.

    Args:
        weights: The values, in a precision of their own.
        shape: Their shape, one of `SHAPES`.
        device: torch's name of the device.
        dtype: What it computes in; values of a narrower type are kept exactly.
    """
    import transformers  # noqa: TID251 - the reference

    config = transformers.MistralConfig(
        **{key: value for key, value in SHAPES[shape].items() if key != "architectures"},
        attn_implementation="sdpa",
        use_cache=False,
    )
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            model = transformers.MistralModel(config)
    finally:
        torch.set_default_dtype(before)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights.tensor(name))
    return model.eval()


def embed_alone(model: Any, rows: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """Embed each row by itself: no padding, no company.

    Returns:
        ``[rows, hidden]``: the last token's hidden state, normalised in float32.
    """
    vectors = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.from_numpy(row.astype(np.int64))[None].to(model.device)
            hidden = model(input_ids=ids).last_hidden_state[0, -1].float()
            vectors.append(torch.nn.functional.normalize(hidden, dim=0).cpu().numpy())
    return np.stack(vectors)


def embed_padded(model: Any, rows: Sequence[NDArray[np.int32]]) -> NDArray[np.float32]:
    """Embed one batch, each row filled up behind its end to the longest.

    Returns:
        ``[rows, hidden]``, as of `embed_alone`.
    """
    lengths = torch.tensor([len(row) for row in rows])
    ids = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.from_numpy(row.astype(np.int64))
    mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()
    with torch.inference_mode():
        hidden = model(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device)
        ).last_hidden_state
        last = hidden[torch.arange(len(rows)), (lengths - 1).to(hidden.device)].float()
        vectors: NDArray[np.float32] = torch.nn.functional.normalize(last, dim=1).cpu().numpy()
    return vectors
