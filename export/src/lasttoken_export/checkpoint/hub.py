"""A model on the Hugging Face hub, downloaded at a pinned revision."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from lasttoken_export.errors import ModelNotFound, SourceUnavailable

_FILES = (
    "config.json",
    "*.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "modules.json",
    "*_Pooling/config.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
"""Never pickled weights, never code."""


def download_from_hub(repository: str, revision: str | None) -> Path:
    """Download a model's files, or find them in the hub's own cache.

    Args:
        repository: ``owner/name``.
        revision: Commit, branch or tag; None for the newest.

    Returns:
        The folder of the snapshot.

    Raises:
        ModelNotFound: The hub has no such model or revision.
        SourceUnavailable: The hub cannot be reached, or the model is gated.
    """
    try:
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(_FILES)))
    except GatedRepoError:
        raise SourceUnavailable(
            f"{repository} is gated: accept its conditions on the hub and log in with `hf auth "
            "login`, or give the path of a folder that holds it"
        ) from None
    except RevisionNotFoundError:
        raise ModelNotFound(f"{repository} has no revision {revision!r}") from None
    except RepositoryNotFoundError:
        raise ModelNotFound(
            f"the hub has no model {repository!r}, or it is private; for a folder or a file of "
            "this machine give its path"
        ) from None
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise SourceUnavailable(
            f"{repository} is not in the hub's cache and the hub cannot be reached "
            f"({type(error).__name__}); download it where there is a network (`hf download "
            f"{repository}`) and give the path of the folder"
        ) from None
