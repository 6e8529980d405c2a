"""Time is counted once, whatever is computed beside each other."""

import pytest
from busy_time import BusyTime


@pytest.mark.parametrize(
    ("events", "told"),
    [
        pytest.param("1+ 3- 10+ 11-", [2, 1], id="one after the other"),
        pytest.param("1+ 2+ 3- 7-", [2, 4], id="beside each other"),
        pytest.param("1+ 3- 5+ 6+ 8- 9+ 10- 14-", [2, 3, 2, 4], id="overlapping"),
        pytest.param("0+ 4- 4+ 4-", [4, 0], id="at the same moment"),
    ],
)
def test_each_end_tells_what_no_other_has(events, told):
    now_s = [0]
    busy = BusyTime(clock=lambda: now_s[0])
    seconds = []
    for event in events.split():
        now_s[0] = int(event[:-1])
        if event.endswith("+"):
            busy.begin()
        else:
            seconds.append(busy.end())
    assert seconds == told
