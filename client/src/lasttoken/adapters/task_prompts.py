"""Which of a model's prompts an MTEB task gets: a rule on names, without mteb itself."""

from __future__ import annotations

import re
from collections.abc import Collection

from lasttoken.encode_call import PROMPTS_OF_DOCUMENTS, PROMPTS_OF_QUERIES

_VERSION = re.compile(r"(\.v\d+|v\d+)$")
_RETRIEVAL_VARIANT = re.compile(r"([A-Z][A-Za-z]*)?(Retrieval|HardNegatives)?(\.?v?\d+)*$")


def task_prompt_name(
    prompts: Collection[str], *, task_name: str, task_type: str, side: str | None
) -> str | None:
    """Choose the prompt for the texts of a task.

    Documents of tasks that tell queries from documents get the model's document prompt.
    Queries, and every text of the other tasks, get the first of these that the model has: the
    prompt of the task's name; of that name without its version (`RedditClustering.v2`); for
    retrieval the one of its family (`CQADupstack` for `CQADupstackAndroidRetrieval`); the one of
    its type (`STS`, `Summarization`; `classification`); for queries `query`.

    Args:
        prompts: Names of the model's prompts.
        task_name: mteb's name of the task.
        task_type: mteb's name of its type.
        side: `"query"` or `"document"` where the task tells them apart, or None.

    Returns:
        A name out of `prompts`, or None for the model's default.
    """
    if side == "document":
        return _first(prompts, PROMPTS_OF_DOCUMENTS)
    names = [task_name, _VERSION.sub("", task_name)]
    if "Retrieval" in task_type or "Reranking" in task_type:
        names += _families(prompts, task_name)
    names += [task_type, task_type.lower()]
    names += [name for word, name in _TYPE_WORDS if word in task_type]
    if side == "query":
        names += PROMPTS_OF_QUERIES
    return _first(prompts, names)


_TYPE_WORDS = (("Classification", "classification"), ("Clustering", "clustering"))
"""`MultilabelClassification` is a classification for a model that knows no finer types."""


def _families(prompts: Collection[str], task_name: str) -> list[str]:
    """Prompts whose name the task's begins with, the longest first."""
    found = [
        name
        for name in prompts
        if task_name.startswith(name) and _RETRIEVAL_VARIANT.match(task_name[len(name) :])
    ]
    return sorted(found, key=len, reverse=True)


def _first(prompts: Collection[str], names: Collection[str]) -> str | None:
    return next((name for name in names if name in prompts), None)
