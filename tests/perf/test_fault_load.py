"""What becomes of requests is summed up right, and callers note it right."""

import time

import numpy as np
import pytest

from lasttoken import ModelUnavailable
from lasttoken_perf.faults.load import RIGHT, WRONG, Load, Outcome, impact_of


def outcome(started_s, ended_s, result=RIGHT):
    return Outcome(started_s=started_s, ended_s=ended_s, result=result)


def test_the_longest_time_without_a_right_answer_is_the_outage():
    impact = impact_of(
        [
            outcome(0, 0.1), outcome(0.1, 0.2), outcome(0.2, 0.3, "ModelUnavailable"),
            outcome(0.3, 3.0, "DeadlineExceeded"), outcome(3.0, 4.2), outcome(4.2, 4.3, WRONG),
        ]
    )  # fmt: skip
    assert (impact.requests, impact.right, impact.wrong) == (6, 3, 1)
    assert impact.errors == {"ModelUnavailable": 1, "DeadlineExceeded": 1}
    assert impact.outage_s == pytest.approx(4.0)
    assert 100 <= impact.p99_ms <= 1200


def test_the_time_until_the_first_answer_counts_too():
    assert impact_of([outcome(0, 5), outcome(5, 5.1)]).outage_s == 5


def test_nothing_right_is_no_finding():
    with pytest.raises(ValueError, match="ServerError"):
        impact_of([outcome(0, 1, "ServerError")])


class Client:
    """Answers some texts right, some wrong, and fails on others."""

    closed = False

    def embed(self, text, *, timeout_s):
        time.sleep(0.001)
        if text == "fails":
            raise ModelUnavailable("gone")
        return np.ones(2, np.float32) if text == "right" else np.zeros(2, np.float32)

    def close(self):
        self.closed = True


def test_callers_tell_right_wrong_and_errors():
    client = Client()
    expected = dict.fromkeys(("right", "wrong", "fails"), np.ones(2, np.float32))
    with Load(lambda: client, expected, callers=2) as load:
        load.wait_for_right(5, after_s=0, timeout_s=30)
    assert {o.result for o in load.outcomes} == {RIGHT, WRONG, "ModelUnavailable"}
    assert client.closed
    with pytest.raises(TimeoutError):
        load.wait_for_right(1, after_s=time.monotonic(), timeout_s=0.2)
