"""The same weights in sentence-transformers, and in plain transformers with padding by hand."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lasttoken_perf.gpu_suite.measuring import Contestant, Rows, measure
from lasttoken_perf.gpu_suite.random_weights import TORCH_TYPES, RandomWeights
from lasttoken_perf.gpu_suite.settings import SuiteSettings
from lasttoken_perf.gpu_suite.step_report import StepReport
from lasttoken_perf.gpu_suite.transformers_model import embed_padded, load_mistral
from lasttoken_perf.gpu_suite.word_tokenizer import texts_of_rows
from lasttoken_perf.hf_folder import write_hf_folder, write_pooling_modules

SUBJECT, PADDED = "sentence-transformers", "transformers, padded"
_BATCH_ROWS = 32


def run(settings: SuiteSettings) -> StepReport:
    """Measure both, sentence-transformers where it is installed.

    Raises:
        WrongAnswer: Vectors are not the reference's.
    """
    import transformers  # noqa: TID251 - a peer

    weights = RandomWeights(
        settings.shape, precision=settings.precision, device=settings.device, seed=settings.seed
    )
    model = load_mistral(
        weights, shape=settings.shape, device=settings.device,
        dtype=TORCH_TYPES[settings.precision],
    )  # fmt: skip
    padded = Contestant(
        subject=PADDED,
        version=transformers.__version__,
        precision=settings.precision,
        embed_batch=lambda rows: embed_padded(model, rows),
        embed_corpus=lambda rows: _in_order_of_length(model, rows),
        variant=f"{_BATCH_ROWS} rows a batch, in order of length",
    )
    report = measure(padded, settings)
    try:
        import sentence_transformers
    except ImportError as error:
        report.rows.append({"subject": SUBJECT, "discarded": f"not installed here: {error}"})
        return report
    encoder = _sentence_transformer(model, settings)

    def embed(rows: Rows) -> NDArray[np.float32]:
        vectors: NDArray[np.float32] = encoder.encode(
            texts_of_rows(rows), batch_size=_BATCH_ROWS, convert_to_numpy=True
        )
        return vectors.astype(np.float32)

    library = Contestant(
        subject=SUBJECT,
        version=sentence_transformers.__version__,
        precision=settings.precision,
        embed_batch=embed,
        embed_corpus=embed,
        variant=f"{_BATCH_ROWS} rows a batch, as it sorts them",
    )
    found = measure(library, settings)
    return StepReport(
        rows=report.rows + found.rows, checks={PADDED: report.checks, SUBJECT: found.checks}
    )


def _in_order_of_length(model: Any, rows: Rows) -> NDArray[np.float32]:
    order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
    vectors: NDArray[np.float32] | None = None
    for start in range(0, len(order), _BATCH_ROWS):
        chosen = order[start : start + _BATCH_ROWS]
        found = embed_padded(model, [rows[index] for index in chosen])
        if vectors is None:
            vectors = np.empty((len(rows), found.shape[1]), np.float32)
        vectors[chosen] = found
    assert vectors is not None
    return vectors


def _sentence_transformer(model: Any, settings: SuiteSettings) -> Any:
    """Return a SentenceTransformer around a model that is on the device already.

    A small checkpoint with the same tokenizer is loaded from disk, so that the library sets itself
    up as it always does; then the model takes the small one's place.
    """
    import sentence_transformers

    with tempfile.TemporaryDirectory(prefix="lasttoken-gpu.") as name:
        folder = Path(name) / "model"
        small = _SameVocabulary(settings)
        write_hf_folder(small, folder)
        (folder / "tokenizer_config.json").write_text(
            '{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "</s>", '
            f'"eos_token": "</s>", "model_max_length": {settings.max_length}}}'
        )
        write_pooling_modules(
            folder, pooling="last_token", dimensions=model.config.hidden_size,
            max_length=settings.max_length,
        )  # fmt: skip
        encoder = sentence_transformers.SentenceTransformer(str(folder), device=settings.device)
    module = encoder[0]
    # `auto_model` was an attribute before it became a property over `model`.
    setattr(module, "model" if hasattr(module, "model") else "auto_model", model)
    return encoder


class _SameVocabulary(RandomWeights):
    """The tiny shape with the tokenizer of the one that is measured."""

    def __init__(self, settings: SuiteSettings) -> None:
        super().__init__("tiny", precision="fp32", device="cpu", seed=settings.seed)
        self._tokenizer = RandomWeights(
            settings.shape, precision="fp32", device="cpu", seed=settings.seed
        ).tokenizer_json()

    def tokenizer_json(self) -> str:
        """See `ModelFiles.tokenizer_json`."""
        return self._tokenizer
