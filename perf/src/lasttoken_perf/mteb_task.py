"""Tasks of MTEB by name, from data in the local datasets cache, on a served model.

mteb and its datasets library do the work; this suite keeps them from the network, so that a figure
never depends on what could be fetched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from lasttoken_perf.errors import MissingLibrary, TaskUnavailable
from lasttoken_perf.results import Row

_NO_MTEB = "tasks of MTEB need mteb, which brings torch along: pip install 'lasttoken-perf[mteb]'"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskScore:
    """One score of a task.

    Attributes:
        split: Such as ``test``.
        subset: Of the data set; ``default`` where it has none.
        metric: What MTEB takes as the task's main score.
        score: From 0 to 1, as MTEB gives it.
    """

    split: str
    subset: str
    metric: str
    score: float


def open_mteb_task(name: str) -> Any:
    """Return a task of mteb's with its data loaded, from this machine alone.

    Args:
        name: MTEB's name, such as ``Banking77Classification``.

    Raises:
        MissingLibrary: mteb is not installed.
        TaskUnavailable: mteb has no such task, or its data is not in the local cache.
    """
    try:
        import datasets  # noqa: F401 - without it no task has data
        import mteb
    except ModuleNotFoundError as error:
        raise MissingLibrary(f"{_NO_MTEB} ({error})") from None
    try:
        task = mteb.get_task(name)
    except KeyError as error:
        raise TaskUnavailable(
            f"mteb {mteb.__version__} has no task of that name: "
            f"{str(error.args[0]).removeprefix('KeyError: ')}"
        ) from None
    for part in getattr(task, "tasks", [task]):  # an aggregate has no data of its own
        _load(name, part)
    return task


def _load(name: str, task: Any) -> None:
    """Load the data of a task, or of a part of the task of that name."""
    from datasets import config

    data, own = task.metadata.dataset, task.metadata.name
    try:
        with _without_network():
            task.load_data()
    except (OSError, ValueError) as error:  # how datasets says that its cache lacks something
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        part = "" if own == name else f", of its part {own!r}"
        raise TaskUnavailable(
            f"the data of the task {name!r} is not at hand{part}: {data.get('path')!r} in revision "
            f"{data.get('revision')!r} is not in {config.HF_DATASETS_CACHE} ({first_line}). This "
            'suite downloads no task. On a machine with network: python -c "import mteb; '
            f"mteb.get_task('{own}').load_data()\", then copy that folder here (HF_DATASETS_CACHE "
            "names another); or give a retrieval task's files in BEIR's layout with --data"
        ) from None


def score_served(url: str, model: str, task: Any) -> list[TaskScore]:
    """Evaluate a served model on a task, by its own prompts for it.

    Args:
        url: The server's gRPC address.
        model: Name of the ensemble.
        task: Of `open_mteb_task`.

    Returns:
        The main score of every split and subset.
    """
    import mteb

    from lasttoken.adapters.mteb import LasttokenEncoder

    encoder = LasttokenEncoder(model, url=url)
    with _without_network():
        results = mteb.evaluate(encoder, [task], cache=None, show_progress_bar=False)
    [result] = results.task_results
    return [
        TaskScore(
            split=split,
            subset=scores["hf_subset"],
            metric=task.metadata.main_score,
            score=float(scores["main_score"]),
        )
        for split, subsets in result.scores.items()
        for scores in subsets
    ]


def score_rows(name: str, subject: str, scores: Mapping[str, Sequence[TaskScore]]) -> list[Row]:
    """Return the rows of all precisions, each beside fp32.

    Args:
        name: Of the task.
        subject: Who was evaluated.
        scores: By precision, fp32 among them.
    """
    exact = {(score.split, score.subset): score.score for score in scores["fp32"]}
    rows: list[Row] = []
    for precision, own in scores.items():
        for score in own:
            row: Row = {
                "subject": subject,
                "precision": precision,
                "task": name,
                "metric": score.metric,
                "variant": f"{score.split}, {score.subset}",
                "main_score": score.score,
            }
            if reference := exact[score.split, score.subset]:
                row["main_score_change"] = (score.score - reference) / reference
            rows.append(row)
    return rows


def score_table(rows: Sequence[Row], published: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Yield the figures for a reader: measured ones, and published ones marked as such."""
    yield f"Measured on MTEB's {rows[0]['task']} from local data, served by a real Triton"
    yield ""
    yield "| precision | split, subset | metric | score | change from fp32 |"
    yield "|---|---|---|---:|---:|"
    for row in rows:
        change = f"{row['main_score_change']:+.2%}" if "main_score_change" in row else "-"
        yield (
            f"| {row['precision']} | {row['variant']} | {row['metric']} | "
            f"{100 * row['main_score']:.2f} | {change} |"
        )
    yield ""
    yield from published_lines(published)


def published_lines(published: Sequence[Mapping[str, object]]) -> Iterator[str]:
    """Yield what the model's authors published, marked as not measured here."""
    if not published:
        yield "Published figures: none in the catalogue for this model."
    for figure in published:
        yield (
            f"Published, not measured here: {figure['metric']} {figure['value']} "
            f"({figure['source']})"
        )


@contextmanager
def _without_network() -> Iterator[None]:
    """Have datasets and the hub's client answer from their caches alone."""
    from datasets import config
    from huggingface_hub import constants

    modules: list[Any] = [config, constants]
    before = [(module, module.HF_HUB_OFFLINE) for module in modules]
    for module in modules:
        module.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        for module, value in before:
            module.HF_HUB_OFFLINE = value
