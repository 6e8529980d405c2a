"""Tables of the documentation are those that the commands print of the results beside them."""

import json
from itertools import groupby
from pathlib import Path

import pytest

from lasttoken_perf.client_bench import table as client_table
from lasttoken_perf.commands.overload import bars_table
from lasttoken_perf.commands.peers import peers_table
from lasttoken_perf.modelopt.table import render as modelopt_table
from lasttoken_perf.plan.published_claims import check_claims
from lasttoken_perf.plan.render import claims_table
from lasttoken_perf.plan_sizes import plans_table
from lasttoken_perf.precisions.table import render as precisions_table
from lasttoken_perf.quality_served import figures_table

DOCS = Path(__file__).parents[2] / "docs"
MEASUREMENTS = DOCS / "measurements"
PEERS = sorted(path.name for path in MEASUREMENTS.glob("peers-*.json"))


def tables(lines):
    """Return the tables among lines, each as its lines."""
    runs = [
        list(run) for is_row, run in groupby(lines, lambda line: line.startswith("|")) if is_row
    ]
    assert runs
    return runs


def missing_tables(lines, page):
    written = tables(page.read_text(encoding="utf-8").splitlines())
    return [table for table in tables(lines) if table not in written]


@pytest.mark.parametrize(
    ("result", "table", "page"),
    [
        *((name, peers_table, "peers.md") for name in PEERS),
        ("plans.json", plans_table, "plans.md"),
        ("precisions.json", precisions_table, "precisions.md"),
        ("precisions-xeon.json", precisions_table, "precisions-xeon.md"),
        ("modelopt.json", modelopt_table, "../precisions.md"),
        ("client-overhead.json", client_table, "clients.md"),
        ("overload.json", lambda result: bars_table(result["bars"]), "overload.md"),
        ("overload-avx2.json", lambda result: bars_table(result["bars"]), "overload.md"),
        ("overload-streams.json", lambda result: bars_table(result["bars"]), "overload.md"),
        ("overload-shared.json", lambda result: bars_table(result["bars"]), "overload.md"),
        ("quality-smollm2.json", lambda result: figures_table(result["rows"]), "README.md"),
    ],
)
def test_a_table_is_that_of_its_result(result, table, page):
    found = json.loads((MEASUREMENTS / result).read_text(encoding="utf-8"))
    assert missing_tables(table(found), MEASUREMENTS / page) == []


def test_the_published_claims_stand_as_they_are_computed():
    assert missing_tables(claims_table(check_claims()), DOCS / "capacity.md") == []
