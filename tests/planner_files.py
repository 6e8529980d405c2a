"""What users of the planner write into their files, as its tests do."""

PRICE_HEADING = "gpu,provider,tier,usd_per_hour,listed,source\n"


def calibration_point(**changes):
    """A point that is right but for the changes."""
    values = {
        "gpu": "H200", "model": "e5-mistral-7b-instruct", "precision": "fp16",
        "tokens_per_s": 40_000, "basis": "measured", "source": "a run",
    }  # fmt: skip
    return {**values, **changes}
