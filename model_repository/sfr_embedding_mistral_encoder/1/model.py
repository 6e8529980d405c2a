"""Triton model of the encoder: tensors in, the scheduler, tensors out."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils
from batch_planner import BatchLimits, CostModel
from encode_errors import EncodeError, InvalidRows
from encode_request import EncodeRequest, parse_service_class, rows_from_tensors
from encoder_metrics import EncoderMetrics
from encoder_settings import EncoderSettings
from engine import Engine
from engine_choice import open_engine
from numpy.typing import NDArray
from row_queue import RowQueue
from scheduler import Scheduler, logged_failure

_log = logging.getLogger(__name__)


class TritonPythonModel:
    """Hands every request to the scheduler and returns at once; answers are sent when ready."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the graph, compute one batch, start the scheduler."""
        logging.basicConfig(format="%(levelname)s %(name)s: %(message)s")
        config = json.loads(args["model_config"])
        self._settings = settings = EncoderSettings.from_parameters(config["parameters"])
        version_folder = Path(args["model_repository"]) / args["model_version"]
        engine = open_engine(version_folder, settings)
        check_engine(engine, config["output"][0]["dims"][0])
        labels = {"model": args["model_name"], "version": args["model_version"]}
        self._metrics = EncoderMetrics(
            pb_utils,
            labels,
            {
                "precision": settings.precision,
                "runtime": settings.runtime,
                "revision": settings.revision,
            },
        )
        row_queue = RowQueue(
            BatchLimits(
                preferred_tokens=settings.preferred_batch_tokens, max_rows=settings.max_batch_rows
            ),
            CostModel(
                attention_cell_cost=settings.attention_cell_cost,
                overhead_tokens=settings.batch_overhead_tokens,
                padded=settings.graph_form == "padded",
                shares_prefixes=engine.shares_prefixes,
            ),
            max_queue_tokens=settings.max_queue_tokens,
            bulk_queue_fraction=settings.bulk_queue_fraction,
            bulk_every=settings.bulk_every,
        )
        self._scheduler = Scheduler(engine, row_queue, self._metrics)

    def execute(self, requests: list[Any]) -> None:
        """Submit each request; refuse at once what cannot be queued.

        Nothing is raised: Triton would answer every request of the group with it, those that are
        queued already among them, and crash when these are answered a second time.
        """
        for request in requests:
            with logged_failure():
                self._submit(request)
        with logged_failure("metrics could not be told to the server"):
            self._metrics.set_queue_tokens(self._scheduler.queue_tokens)

    def finalize(self) -> None:
        """Answer everything in flight."""
        self._scheduler.close(drain_timeout_s=self._settings.drain_timeout_s)

    def _submit(self, request: Any) -> None:
        sender = request.get_response_sender()
        try:
            self._scheduler.submit(self._parse(request, sender))
        except EncodeError as error:
            self._refuse(sender, error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is one caller's
            _log.exception("a request could not be read")
            self._refuse(sender, EncodeError(f"the request could not be read: {error}"))

    def _refuse(self, sender: Any, error: EncodeError) -> None:
        send(sender, error)
        self._metrics.request_dropped(error.reason)

    def _parse(self, request: Any, sender: Any) -> EncodeRequest:
        rows = rows_from_tensors(
            pb_utils.get_input_tensor_by_name(request, "INPUT_IDS").as_numpy(),
            pb_utils.get_input_tensor_by_name(request, "ROW_LENGTHS").as_numpy(),
            max_length=self._settings.max_length,
            vocab_size=self._settings.vocab_size,
        )
        parameters = read_parameters(request)
        timeout_us = request.timeout()
        return EncodeRequest(
            rows,
            lambda answer: send(sender, answer),
            service_class=parse_service_class(parameters.get("service_class")),
            deadline_s=time.monotonic() + timeout_us / 1e6 if timeout_us else None,
            is_cancelled=request.is_cancelled,
        )


def read_parameters(request: Any) -> dict[str, Any]:
    """Return the parameters of a request of Triton's.

    Raises:
        InvalidRows: They are not UTF-8, which Triton's HTTP service does not look at.
    """
    try:
        parameters: dict[str, Any] = json.loads(request.parameters() or "{}")
    except ValueError as error:
        raise InvalidRows(f"the request's parameters cannot be read: {error}") from None
    return parameters


def send(sender: Any, answer: NDArray[np.float32] | EncodeError) -> None:
    """Send the one response of a request."""
    if isinstance(answer, EncodeError):
        code = getattr(pb_utils.TritonError, answer.code)
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(answer), code))
    else:
        response = pb_utils.InferenceResponse([pb_utils.Tensor("EMBEDDING", answer)])
    sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)


def check_engine(engine: Engine, dimensions: int) -> None:
    """Refuse to start when the graph does not give unit vectors of the configured size."""
    vectors = engine.encode(np.zeros(3, np.int32), np.array([1, 2], np.int32))
    norms = np.linalg.norm(vectors, axis=1)
    if vectors.shape != (2, int(dimensions)) or not np.allclose(norms, 1, atol=1e-3):
        raise ValueError(
            f"encoder.onnx gave vectors of shape {vectors.shape} with norms {norms.tolist()}; "
            f"config.pbtxt promises unit vectors of {dimensions} elements: export the model again"
        )
