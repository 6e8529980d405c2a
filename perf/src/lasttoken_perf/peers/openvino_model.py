"""OpenVINO's engine on the graph that its own exporter, optimum-intel, makes of a checkpoint.

optimum-intel 2.2.0 has two mistakes with decoders that only embed, and both are stepped around: its
patch of Mistral asks the bare model for a part that only the generating one has, after the
conversion; and its `OVModelForFeatureExtraction`, which sentence-transformers runs, leaves the
graph's ``position_ids`` unset. So its graph is run by OpenVINO itself.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

_HINTS = {"fp32": "f32", "bf16": "bf16"}


class OpenVinoModel:
    """A checkpoint's hidden states, on all cores that it is given.

    Attributes:
        version: OpenVINO's.
    """

    version: str

    def __init__(self, folder: str, *, precision: str, threads: int) -> None:
        """Export and compile.

        Args:
            folder: Hugging Face folder.
            precision: ``fp32``; ``bf16``, which OpenVINO takes of itself where the processor has
                it; ``int8`` for weights in int8 as optimum-intel rounds them, and activations as
                OpenVINO does of itself.
            threads: Of the processor.

        Raises:
            RuntimeError: This processor computes the precision in another.

        Source: https://huggingface.co/docs/optimum-intel/openvino/export and, of the settings,
        https://docs.openvino.ai/2024/openvino-workflow/running-inference/inference-devices-and-modes/cpu-device.html
        """
        # OpenVINO and its exporter send no usage figures where this cannot be imported.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        import openvino
        import transformers  # noqa: TID251 - a peer
        from optimum.intel import OVModelForFeatureExtraction, OVWeightQuantizationConfig

        transformers.MistralModel.model = None
        rounding = OVWeightQuantizationConfig(bits=8) if precision == "int8" else None
        exported = OVModelForFeatureExtraction.from_pretrained(
            folder, export=True, compile=False, quantization_config=rounding
        )
        settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": threads}
        if precision in _HINTS:
            settings["INFERENCE_PRECISION_HINT"] = _HINTS[precision]
        self._compiled = openvino.Core().compile_model(exported.model, "CPU", settings)
        self._request = self._compiled.create_infer_request()
        self._inputs = {name for port in self._compiled.inputs for name in port.get_names()}
        self.version = openvino.__version__.partition("-")[0]
        if precision == "bf16":
            computes = self._compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            if computes != "bf16":
                raise RuntimeError(f"OpenVINO computes bf16 in {computes} on this processor")

    def last_hidden_state(
        self, input_ids: NDArray[np.int64], attention_mask: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Hidden states of a batch padded on the right.

        Args:
            input_ids: ``[rows, longest]`` int64.
            attention_mask: ``[rows, longest]`` int64, 0 for padding.

        Returns:
            ``[rows, longest, dim]`` float32 in memory that the next call writes over.
        """
        rows, longest = input_ids.shape
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": np.broadcast_to(np.arange(longest), (rows, longest)).copy(),
            "token_type_ids": np.zeros_like(input_ids),
        }
        self._request.infer({name: given[name] for name in self._inputs}, share_inputs=True)
        hidden: NDArray[np.float32] = self._request.get_output_tensor(0).data
        return hidden
