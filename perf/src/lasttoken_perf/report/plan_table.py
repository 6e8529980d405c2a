"""The planner's answer on the page, from the JSON that ``lasttoken-perf plan`` wrote."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lasttoken_perf.plan.render import COLUMNS, LEGEND, option_cells, refusal_line


def plan_tables(result: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield tables of the options, of what is none, and of published claims, where there are any.

    Args:
        result: What the command wrote, of today's form or of the one without a schema.
    """
    plans = result.get("plans") or []
    options = [option_cells(plan) for plan in plans if not plan["refusal"]]
    refused = [[refusal_line(plan)] for plan in plans if plan["refusal"]]
    if plans and not options:
        refused = [["No device is an option."], *refused]
    if options:
        yield {"heads": list(COLUMNS), "rows": options, "notes": LEGEND}
    if refused:
        yield {"heads": ["no option"], "rows": refused}
    if claims := result.get("claims"):
        rows = [
            [c["claim"], c["account"], "yes" if c["agrees"] else "no", c["why"]] for c in claims
        ]
        yield {"heads": ["published", "account", "agrees", "why"], "rows": rows}
