"""Errors of the exporter. Each message names the culprit and the way out.

ExportError
├── InvalidOption                 an option of the caller's is not acceptable
├── ModelNotFound                 no such folder, file, hub id or package
├── SourceUnavailable             the hub or the package index cannot be reached, or refuses
├── UnsupportedModel              the graph cannot reproduce this model
│   ├── UnsupportedArchitecture
│   ├── UnsupportedRopeScaling
│   └── UnsupportedTokenizer
├── AmbiguousModel                its files leave open how a text becomes a vector
├── MaxLengthBeyondModel          longer than the sliding window or the positions
├── InvalidCheckpoint             the files are not a whole checkpoint
│   ├── CorruptFile               truncated, or not of its format
│   ├── HeadsMismatch             other attention heads than the model was published with
│   ├── MissingTensor
│   ├── RotaryBaseMismatch        other rotary frequencies than the model was published with
│   ├── UnexpectedTensor
│   └── TensorShapeMismatch
├── TokenizerMismatch             the tokenizer does not follow the model's contract
├── InvalidCatalogue              a catalogue entry is malformed
├── NotEnoughDisk
├── NotEnoughMemory
├── PlanError                     no TensorRT plan can be built
│   ├── MissingLibrary            TensorRT is not installed
│   ├── UnsupportedDevice         the target GPU, or its absence
│   ├── GraphRefused              TensorRT's parser does not take the graph
│   └── BuildFailed
└── VerificationFailed            the written model does not do what it must; nothing is published
    └── QualityGateMissed         its vectors are further from fp32's than the gate allows
"""

from __future__ import annotations


class ExportError(Exception):
    """Base of the tree."""


class InvalidOption(ExportError):
    """An option of the caller's is not acceptable."""


class ModelNotFound(ExportError):
    """There is no such folder, file, hub id or package."""


class SourceUnavailable(ExportError):
    """The hub or the package index cannot be reached, or refuses."""


class UnsupportedModel(ExportError):
    """The graph cannot reproduce this model."""


class UnsupportedArchitecture(UnsupportedModel):
    """The architecture, or a setting of it, is not implemented."""


class UnsupportedRopeScaling(UnsupportedModel):
    """The scaling of rotary positions is not implemented."""


class UnsupportedTokenizer(UnsupportedModel):
    """The tokenizer cannot be rebuilt exactly."""


class AmbiguousModel(ExportError):
    """A model's files leave open how a text becomes a vector."""


class MaxLengthBeyondModel(ExportError):
    """The maximum length is beyond what the model, or the graph of it, can attend to."""


class InvalidCheckpoint(ExportError):
    """The files are not a whole checkpoint."""


class CorruptFile(InvalidCheckpoint):
    """A file is truncated, or not of its format."""


class HeadsMismatch(InvalidCheckpoint):
    """A checkpoint's configuration has other heads than the model was published with."""


class MissingTensor(InvalidCheckpoint):
    """A tensor that the architecture needs is not there."""


class RotaryBaseMismatch(InvalidCheckpoint):
    """A checkpoint's configuration has other rotary frequencies than was published."""


class UnexpectedTensor(InvalidCheckpoint):
    """A tensor is there that the graph would ignore."""


class TensorShapeMismatch(InvalidCheckpoint):
    """A tensor's shape is not the one that the configuration implies."""


class TokenizerMismatch(ExportError):
    """The tokenizer does not follow the model's contract: golden or special ids differ."""


class InvalidCatalogue(ExportError):
    """A catalogue entry is malformed."""


class NotEnoughDisk(ExportError):
    """The export would fill the disk."""


class NotEnoughMemory(ExportError):
    """A calibration, a plan or a comparison would take more memory than is available."""


class PlanError(ExportError):
    """No TensorRT plan can be built."""


class MissingLibrary(PlanError):
    """TensorRT, or TensorRT-RTX, is not installed."""


class UnsupportedDevice(PlanError):
    """No plan can be built for the target GPU, or there is none."""


class GraphRefused(PlanError):
    """TensorRT's parser does not take the graph."""


class BuildFailed(PlanError):
    """TensorRT could not build the plan."""


class VerificationFailed(ExportError):
    """The written model does not do what it must."""


class QualityGateMissed(VerificationFailed):
    """A model's vectors are further from those in fp32 than the gate of its precision allows."""
