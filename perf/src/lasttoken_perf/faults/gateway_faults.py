"""Harm to gateways: killed, and stopped as a rollout does."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

from lasttoken_perf.faults.http_callers import PROBE_S, openai_load, says_ready
from lasttoken_perf.faults.stage import (
    AFTER,
    BEFORE,
    RECOVERY_S,
    Finding,
    Stage,
    finding_of,
    wait_until,
)
from lasttoken_perf.gateway_process import GatewayProcess, start_gateway, stop_gateway

_RESTART_DELAY_S = 1.0
_DRAIN = ("--drain-delay", "2")


class _Restarted:
    """A gateway under a parent that starts it anew on its port when it has ended."""

    def __init__(self, upstream: str, *options: str) -> None:
        self._upstream, self._options = upstream, options
        self._stopped = threading.Event()
        self.gateway = start_gateway(upstream, *options)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def is_new(self, old: GatewayProcess) -> bool:
        """Whether another one than this has been started."""
        return self.gateway is not old

    def kill(self) -> None:
        """SIGKILL."""
        self.gateway.process.kill()

    def terminate(self) -> None:
        """SIGTERM; returns when it has ended by itself."""
        self.gateway.process.terminate()
        self.gateway.process.wait(RECOVERY_S)

    def stop(self) -> None:
        """End it and start it no more."""
        self._stopped.set()
        self._thread.join(RECOVERY_S)
        stop_gateway(self.gateway)

    def _watch(self) -> None:
        port = int(self.gateway.url.rpartition(":")[2])
        while not self._stopped.wait(0.05):
            if self.gateway.process.poll() is not None:
                time.sleep(_RESTART_DELAY_S)  # as container engines wait before they restart
                self.gateway = start_gateway(self._upstream, *self._options, port=port)


@contextmanager
def _gateways(upstream: str, count: int) -> Iterator[list[_Restarted]]:
    with ExitStack() as stack:
        gateways = []
        for _ in range(count):
            gateway = _Restarted(upstream, *_DRAIN)
            stack.callback(gateway.stop)
            gateways.append(gateway)
        yield gateways


def _urls(gateways: list[_Restarted]) -> list[str]:
    return [gateway.gateway.url for gateway in gateways]


def killed_gateway(stage: Stage, count: int) -> Finding:
    """Kill one of so many gateways under load; its parent starts it anew."""
    with (
        stage.server() as server,
        _gateways(server.grpc_url, count) as gateways,
        openai_load(stage, _urls(gateways)) as load,
    ):
        load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
        old: GatewayProcess = gateways[0].gateway
        harmed_s = time.monotonic()
        gateways[0].kill()
        load.wait_for_right(AFTER, after_s=harmed_s, timeout_s=RECOVERY_S)
        wait_until(partial(gateways[0].is_new, old), "no new gateway was started")
        load.wait_for_right(AFTER, after_s=time.monotonic(), timeout_s=RECOVERY_S)
    which = "the only gateway" if count == 1 else f"one of {count} gateways behind one address"
    fault = f"kill -9 of {which} under load by the openai package, started anew by its parent"
    return finding_of(fault, load, harmed_s=harmed_s)


def drained_gateways(stage: Stage) -> Finding:
    """SIGTERM each of two gateways in turn under load, as a rollout does, without retries."""
    with (
        stage.server() as server,
        _gateways(server.grpc_url, 2) as gateways,
        openai_load(stage, _urls(gateways), retries=0) as load,
    ):
        load.wait_for_right(BEFORE, after_s=0, timeout_s=RECOVERY_S)
        begin_s = time.monotonic()
        for gateway in gateways:
            old = gateway.gateway
            gateway.terminate()
            wait_until(partial(gateway.is_new, old), "no new gateway was started")
            # A rollout goes on when the new one is ready, and has been seen to be.
            wait_until(partial(says_ready, gateway.gateway.url), "the new one is not ready")
            time.sleep(4 * PROBE_S)
            load.wait_for_right(AFTER, after_s=time.monotonic(), timeout_s=RECOVERY_S)
    fault = f"SIGTERM of two gateways in turn ({' '.join(_DRAIN)}) behind one address, no retries"
    return finding_of(fault, load, harmed_s=begin_s)
