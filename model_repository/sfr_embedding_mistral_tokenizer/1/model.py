"""Triton model of the tokenizer: texts in, rows of token ids out."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils
from prompts import PromptedText
from text_request import check_tokens, pad_rows, read_texts
from text_tokenizer import TokenizedText, load_text_tokenizer
from tokenizer_errors import InvalidText
from tokenizer_metrics import TokenizerMetrics
from tokenizer_settings import parse_settings


class TritonPythonModel:
    """Tokenizes the texts of all waiting requests together and answers each on its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer and prove that it follows its contract."""
        # Left to itself the library stops using threads in a process that was forked.
        os.environ["TOKENIZERS_PARALLELISM"] = "true"
        config = json.loads(args["model_config"])
        self._limits = parse_settings(config["parameters"])
        self._tokenizer = load_text_tokenizer(
            Path(args["model_repository"]) / args["model_version"]
        )
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._metrics = TokenizerMetrics(pb_utils, labels)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer every request, each with its own rows or its own error."""
        started_s = time.perf_counter()
        answers: list[list[PromptedText] | InvalidText] = [self._read(r) for r in requests]
        texts = [text for answer in answers if isinstance(answer, list) for text in answer]
        tokenized = self._tokenizer.encode(texts)
        rows = iter(tokenized)
        responses = [
            self._refuse(answer)
            if isinstance(answer, InvalidText)
            else self._respond([next(rows) for _ in answer])
            for answer in answers
        ]
        self._metrics.add(
            {
                "texts": len(tokenized),
                "tokens": sum(len(row.ids) for row in tokenized),
                "truncated_texts": sum(row.truncated for row in tokenized),
                "seconds": time.perf_counter() - started_s,
            }
        )
        return responses

    def finalize(self) -> None:
        """Tell the last counts."""
        self._metrics.close()

    def _read(self, request: Any) -> list[PromptedText] | InvalidText:
        text, prompt_name, instruction = (
            tensor.as_numpy() if tensor is not None else None
            for tensor in (
                pb_utils.get_input_tensor_by_name(request, name)
                for name in ("TEXT", "PROMPT_NAME", "INSTRUCTION")
            )
        )
        assert text is not None  # Triton refuses a request without it
        try:
            return read_texts(
                self._tokenizer.contract, self._limits, text, prompt_name, instruction
            )
        except InvalidText as error:
            return error

    def _respond(self, rows: list[TokenizedText]) -> Any:
        try:
            check_tokens(self._tokenizer.contract, self._limits, rows)
        except InvalidText as error:
            return self._refuse(error)
        input_ids, lengths, truncated = pad_rows(rows)
        return pb_utils.InferenceResponse(
            [
                pb_utils.Tensor("INPUT_IDS", input_ids),
                pb_utils.Tensor("TOKEN_COUNT", lengths),
                pb_utils.Tensor("TRUNCATED", truncated),
            ]
        )

    def _refuse(self, error: InvalidText) -> Any:
        self._metrics.refused(error.reason)
        return pb_utils.InferenceResponse(
            error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
        )
