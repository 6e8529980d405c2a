"""Nothing that is decided by time is decided by the wall clock, which jumps."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("client/src/lasttoken", "model_repository")
ALLOWED = {
    # When a model was first seen, which OpenAI's list of models tells.
    ("client/src/lasttoken/gateway/served_models.py", "time.time"),
    # The time in a line of the log.
    ("client/src/lasttoken/gateway/json_log.py", "time.gmtime"),
}
WALL_CLOCKS = {
    "time.time", "time.time_ns", "time.localtime", "time.gmtime", "datetime.now",
    "datetime.utcnow", "datetime.today", "date.today", "datetime.datetime.now",
    "datetime.datetime.utcnow", "datetime.date.today",
}  # fmt: skip


def wall_clocks(code):
    """Dotted names of the wall clock that are used in a module, called or passed on."""
    return {
        ast.unparse(node)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in WALL_CLOCKS
    }


def test_the_search_finds_calls_and_clocks_that_are_handed_over():
    code = "import time\ndef f(clock=time.time): return datetime.now(tz) - time.monotonic()"
    assert wall_clocks(code) == {"time.time", "datetime.now"}


def test_deadlines_retries_limits_and_probes_use_clocks_that_only_go_forward():
    found = set()
    files = [file for folder in SOURCES for file in (ROOT / folder).rglob("*.py")]
    assert len(files) > 80
    for file in files:
        name = file.relative_to(ROOT).as_posix()
        found |= {(name, clock) for clock in wall_clocks(file.read_text())}
        assert "from time import" not in file.read_text(), f"{name}: write time.monotonic in full"
    assert found == ALLOWED
