"""The faults by name, each with the alert that fires when it lasts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from lasttoken_perf.faults.caller_faults import (
    slow_http_callers,
    stopped_clients,
    vanished_clients,
)
from lasttoken_perf.faults.clock_faults import jumping_clock
from lasttoken_perf.faults.file_faults import corrupted_weights, full_disk
from lasttoken_perf.faults.gateway_faults import drained_gateways, killed_gateway
from lasttoken_perf.faults.server_faults import (
    failing_allocations,
    killed_process,
    new_version,
    out_of_memory,
    rolling_restart,
)
from lasttoken_perf.faults.stage import Finding, Stage


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One fault.

    Attributes:
        run: Does the harm under load and waits for service.
        alerts: Those of the chart that fire if it lasts: the first at once, others by its cause.
    """

    run: Callable[[Stage], Finding]
    alerts: tuple[str, ...] = ()


_DOWN, _FAIL = "LasttokenServerDown", "LasttokenInferencesFail"

SCENARIOS: Mapping[str, Scenario] = {
    "tokenizer": Scenario(run=partial(killed_process, victim="tokenizer"), alerts=(_FAIL,)),
    "encoder": Scenario(run=partial(killed_process, victim="encoder"), alerts=(_FAIL,)),
    "server": Scenario(run=partial(killed_process, victim="server"), alerts=(_DOWN,)),
    "gateway": Scenario(run=partial(killed_gateway, count=1), alerts=(_DOWN,)),
    "gateways": Scenario(run=partial(killed_gateway, count=2), alerts=(_DOWN,)),
    "rolling": Scenario(run=rolling_restart),
    "drain": Scenario(run=drained_gateways),
    "version": Scenario(run=new_version, alerts=("LasttokenRevisionsDiffer",)),
    "clients": Scenario(run=vanished_clients),
    "stopped": Scenario(run=stopped_clients),
    "slow": Scenario(run=slow_http_callers),
    "clock": Scenario(run=jumping_clock),
    "allocations": Scenario(run=failing_allocations, alerts=(_FAIL,)),
    "memory": Scenario(run=out_of_memory, alerts=(_FAIL,)),
    "weights": Scenario(run=corrupted_weights, alerts=(_DOWN,)),
    "disk": Scenario(run=full_disk),
}
"""By the name on the command line."""
