"""mteb: a served model as an encoder, so that `mteb.evaluate` measures what is really served.

::

    import mteb
    from lasttoken.adapters.mteb import LasttokenEncoder

    encoder = LasttokenEncoder("sfr_embedding_mistral", url="127.0.0.1:8001")
    results = mteb.evaluate(encoder, mteb.get_tasks(tasks=["Banking77Classification"]))
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from lasttoken.adapters.task_prompts import task_prompt_name
from lasttoken.client import EmbeddingClient
from lasttoken.errors import LasttokenError

try:
    from mteb.models.abs_encoder import AbsEncoder
    from mteb.models.model_meta import ModelMeta, ScoringFunction
except ModuleNotFoundError as error:
    raise LasttokenError("this adapter needs mteb: pip install 'lasttoken[mteb]'") from error

_TEXTS_PER_CALL = 4096


class LasttokenEncoder(AbsEncoder):  # type: ignore[misc] # mteb is optional to lint
    """A served model as mteb's encoder protocol wants it.

    Each task gets the model's prompt for it (`task_prompt_name`): queries and the texts of
    symmetric tasks the task's own, documents the model's document prompt or its default.
    """

    def __init__(
        self,
        model_name: str,
        revision: str | None = None,
        *,
        device: str | None = None,  # noqa: ARG002 - mteb's command line passes one
        url: str = "127.0.0.1:8001",
        prompt_names: Mapping[str, str] | None = None,
        instructions: Mapping[str, str] | None = None,
        timeout_s: float = 600.0,
        **client_options: Any,
    ) -> None:
        """Connect to a served model.

        Args:
            model_name: Triton's name of the ensemble.
            revision: What the model's revision must be; None takes any. Results are filed under
                the revision that the server names.
            device: Ignored: the server has its own.
            url: `host:port` of Triton's gRPC service.
            prompt_names: Prompt of a task by the task's name, where the rule's choice is not
                wanted; not for documents of tasks that tell queries from documents.
            instructions: Likewise an instruction in place of a prompt.
            timeout_s: Time for each call of at most 4,096 texts, in seconds.
            client_options: More arguments of `lasttoken.EmbeddingClient`, such as `headers`.

        Raises:
            LasttokenError: The model is not there, or not in that revision.
        """
        client_options = {"on_truncation": "ignore", **client_options}  # MTEB cuts long documents
        self.model = EmbeddingClient(url, model_name, **client_options)
        self._timeout_s = timeout_s
        self._prompt_names = dict(prompt_names or {})
        self._instructions = dict(instructions or {})
        info = self.model.model_info(timeout_s=min(timeout_s, 60.0))
        card = info.card or {}
        self._prompts: tuple[str, ...] = tuple(card.get("prompts", ()))
        if revision is not None and revision != card.get("revision"):
            raise LasttokenError(
                f"{url} serves {model_name} in revision {card.get('revision')!r}, not {revision!r}"
            )
        self.mteb_model_meta = ModelMeta.create_empty(
            overwrites={
                "name": f"lasttoken/{card.get('model', model_name)}",
                "revision": _filed_revision(card),
                "max_tokens": card.get("max_length"),
                "embed_dim": info.dimensions,
                "license": (card.get("licence") or {}).get("id"),
                "similarity_fn_name": ScoringFunction.COSINE,
                "use_instructions": bool(self._prompts),
            }
        )

    def encode(
        self,
        inputs: Iterable[Mapping[str, Any]],
        *,
        task_metadata: Any,
        hf_split: str,  # noqa: ARG002 - of the protocol
        hf_subset: str,  # noqa: ARG002
        prompt_type: Any = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> npt.NDArray[np.float32]:
        """Embed the texts of a task.

        Args:
            inputs: Batches with a list `text`.
            task_metadata: mteb's description of the task.
            hf_split: Ignored.
            hf_subset: Ignored.
            prompt_type: Query or document where the task tells them apart, or None.
            kwargs: mteb's options for encoders that compute here; ignored.

        Returns:
            `[n, D]` float32, L2-normalised.

        Raises:
            LasttokenError: As `EmbeddingClient.embed`, or the task has no texts.
        """
        prompt = self.prompt_for(task_metadata, prompt_type)
        vectors = []
        texts: list[str] = []
        for batch in inputs:
            if "text" not in batch:
                raise LasttokenError(
                    f"{task_metadata.name} has {', '.join(batch)} and no text; only tasks of texts "
                    "can be run"
                )
            texts += batch["text"]
            while len(texts) >= _TEXTS_PER_CALL:
                vectors.append(self._embed(texts[:_TEXTS_PER_CALL], prompt))
                texts = texts[_TEXTS_PER_CALL:]
        vectors.append(self._embed(texts, prompt))
        return np.concatenate(vectors)

    def prompt_for(self, task_metadata: Any, prompt_type: Any) -> dict[str, Any]:
        """The prompt or instruction of a task's texts, as an argument of `EmbeddingClient.embed`.

        Args:
            task_metadata: mteb's description of the task.
            prompt_type: Query, document or None.
        """
        side = None if prompt_type is None else str(prompt_type.value)
        name = task_metadata.name
        if side != "document":
            if name in self._instructions:
                return {"instruction": self._instructions[name]}
            if name in self._prompt_names:
                return {"prompt_name": self._prompt_names[name]}
        chosen = task_prompt_name(
            self._prompts, task_name=name, task_type=str(task_metadata.type), side=side
        )
        return {"prompt_name": chosen}

    def _embed(self, texts: list[str], prompt: dict[str, Any]) -> npt.NDArray[np.float32]:
        return self.model.embed(texts, timeout_s=self._timeout_s, priority="bulk", **prompt)


def _filed_revision(card: Mapping[str, Any]) -> str | None:
    """Revision and precision: scores of an int8 export are not those of the fp32 one."""
    parts = [card.get("revision"), card.get("precision"), card.get("runtime")]
    return "-".join(str(part).replace(":", "_") for part in parts if part) or None
