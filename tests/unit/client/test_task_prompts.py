"""Which prompt an MTEB task gets, on the prompts that the catalogue's models have."""

from __future__ import annotations

import pytest

from lasttoken.adapters.task_prompts import task_prompt_name
from lasttoken_export.catalogue import entry, prompts_with_tasks


def prompts_of(model: str) -> list[str]:
    return list(prompts_with_tasks(entry(model).tokenizer))


@pytest.mark.parametrize(
    ("task", "kind", "side", "prompt"),
    [
        ("Banking77Classification", "Classification", None, "Banking77Classification"),
        ("RedditClustering.v2", "Clustering", None, "RedditClustering"),
        ("STSBenchmark", "STS", None, "STS"),
        ("BIOSSES", "STS", None, "STS"),
        ("SummEval", "Summarization", None, "Summarization"),
        ("SprintDuplicateQuestions", "PairClassification", None, "SprintDuplicateQuestions"),
        ("Tatoeba", "BitextMining", None, "BitextMining"),
        ("ArguAna", "Retrieval", "query", "ArguAna"),
        ("ArguAna", "Retrieval", "document", "document"),
        ("CQADupstackAndroidRetrieval", "Retrieval", "query", "CQADupstack"),
        ("FEVERHardNegatives", "Retrieval", "query", "FEVER"),
        ("ClimateFEVERHardNegatives.v2", "Retrieval", "query", "ClimateFEVER"),
        ("MIRACLRetrievalHardNegatives", "Retrieval", "query", "MIRACL"),
        ("Touche2020Retrieval.v3", "Retrieval", "query", "Touche2020"),
        ("AskUbuntuDupQuestions", "Reranking", "query", "AskUbuntuDupQuestions"),
        ("NobodyKnowsRetrieval", "Retrieval", "query", "query"),
        # A name that begins alike but is another kind of task takes no retrieval's instruction.
        ("DBPediaClassification", "Classification", None, None),
        ("NQuiteAnotherTask", "Retrieval", "query", "query"),
        ("NobodyKnowsClassification", "Classification", None, None),
    ],
)
def test_a_model_with_the_tasks_instructions(task, kind, side, prompt):
    prompts = prompts_of("sfr-embedding-mistral")
    chosen = task_prompt_name(prompts, task_name=task, task_type=kind, side=side)
    assert chosen == prompt


@pytest.mark.parametrize(
    ("task", "kind", "side", "prompt"),
    [
        ("Banking77Classification", "Classification", None, "classification"),
        ("SomeTask", "MultilabelClassification", None, "classification"),
        ("RedditClustering", "Clustering", None, "clustering"),
        ("ArguAna", "Retrieval", "query", "search_query"),
        ("ArguAna", "Retrieval", "document", "search_document"),
    ],
)
def test_a_model_with_a_prompt_for_each_kind(task, kind, side, prompt):
    prompts = prompts_of("nomic-embed-text-v1.5")
    chosen = task_prompt_name(prompts, task_name=task, task_type=kind, side=side)
    assert chosen == prompt


def test_a_model_without_prompts():
    for side in (None, "query", "document"):
        assert task_prompt_name([], task_name="ArguAna", task_type="Retrieval", side=side) is None
