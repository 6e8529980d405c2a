"""Errors of the perf suite.

PerfError
├── PeerFailed          a peer's process died or answered out of protocol
├── WrongAnswer         what was to be timed did not return the right vectors
├── UnknownWorkload     no distribution of lengths has that name
├── MalformedResult     a JSON file is not a result, or has undocumented fields
├── ToolUnavailable     perf_analyzer or a peer cannot be installed or run here
├── NotEnoughRoom       the disk has too little room for what is measured
├── FolderInUse         another run works in the work folder, or was killed there
├── MemoryBarMissed     an export took more memory than it may
├── TaskUnavailable     a task's data is not at hand, or a precision cannot be served here
├── MissingLibrary      an optional library is not installed
├── InvalidUsage        arguments that do not go together
│   └── InvalidSoak     a soak's duration, load or number of clients is not positive
├── OutputUnwritable    a file that a result goes to cannot be written
├── MetricsUnavailable  the address of the metrics does not answer, or knows no such model
├── NothingMeasured     every load point was discarded, or no precision can be exported
├── InvalidSuite        a setting of the GPU suite, or a result file that does not belong to it
└── InvalidPlan         the question to the planner is malformed
    ├── UnknownModel
    ├── InvalidPrices
    └── InvalidCalibration

InvalidUsage, UnknownWorkload and InvalidPlan, and InvalidOption of `lasttoken_export`, are bad
usage: the command ends with exit code 2, and with 1 after the others.
"""

from __future__ import annotations


class PerfError(Exception):
    """Base of the tree; shown without a traceback on the command line."""


class PeerFailed(PerfError):
    """A peer's process died or answered out of protocol."""


class WrongAnswer(PerfError):
    """Vectors have the wrong shape or norm, or do not agree with the reference."""


class UnknownWorkload(PerfError):
    """No distribution of lengths has that name."""


class MalformedResult(PerfError):
    """A JSON file is not a result of this suite, or has fields that are not documented."""


class ToolUnavailable(PerfError):
    """A tool or a peer cannot be installed or run on this machine; the message says why."""


class NotEnoughRoom(PerfError):
    """The disk has too little room for what is measured."""


class FolderInUse(PerfError):
    """A work folder is there already."""


class MemoryBarMissed(PerfError):
    """An export took more memory than it may."""


class TaskUnavailable(PerfError):
    """A task's data is not at hand, or a precision cannot be served on this machine."""


class MissingLibrary(PerfError):
    """An optional library is not installed."""


class InvalidUsage(PerfError):
    """Arguments that do not go together."""


class OutputUnwritable(PerfError):
    """A file that a result goes to cannot be written; a result is kept where the message says."""


class MetricsUnavailable(PerfError):
    """The address of the server's metrics does not answer, or has no series of the model."""


class NothingMeasured(PerfError):
    """Every load point was discarded, or a model can be exported in no precision."""


class InvalidSoak(InvalidUsage):
    """A soak's duration, load or number of clients is not positive."""


class InvalidSuite(PerfError):
    """A setting of the GPU suite is not acceptable, or its result file is of other settings."""


class InvalidPlan(PerfError):
    """The question to the planner is malformed."""


class UnknownModel(InvalidPlan):
    """The planner has no shape of that model."""


class InvalidPrices(InvalidPlan):
    """The price file is malformed."""


class InvalidCalibration(InvalidPlan):
    """The file of measured points is malformed."""
