"""Corpora: a column of Parquet files in, Parquet files with vectors out.

::

    from lasttoken.corpus import CorpusOptions, embed_corpus

    report = embed_corpus(
        CorpusOptions(inputs=("texts/",), output="vectors/", model="sfr_embedding_mistral")
    )

Needs the extra `corpus`; `RayRunner` in `lasttoken.corpus.ray_runner` needs the extra `ray`.
"""

from __future__ import annotations

from lasttoken.errors import LasttokenError

try:
    import pyarrow  # noqa: F401 - every module of this package needs it
except ModuleNotFoundError as error:
    raise LasttokenError("corpora need pyarrow: pip install 'lasttoken[corpus]'") from error

from lasttoken.corpus.options import CorpusOptions
from lasttoken.corpus.run import CorpusReport, embed_corpus, run_here
from lasttoken.corpus.writer import PartCounts

__all__ = ["CorpusOptions", "CorpusReport", "PartCounts", "embed_corpus", "run_here"]
