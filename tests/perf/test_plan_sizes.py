"""The arithmetic of the table of plans, and one real build through it."""

import pytest

from lasttoken_perf.errors import PeerFailed
from lasttoken_perf.plan_sizes import SFR, check_contents, plans_table, whole_plan_bytes


def row(layers, plan_bytes, precision="fp16", subject=SFR):
    return {
        "subject": subject, "precision": precision, "layers": layers, "seconds": 1.5,
        "weight_bytes": 10**6, "plan_bytes": plan_bytes, "rss_bytes": 2 * 10**6,
    }  # fmt: skip


def test_the_whole_model_is_one_layer_and_31_times_what_a_second_added():
    rows = [row(1, 700), row(2, 1100), row(30, 5, subject="smollm2-135m"), row(2, 9, "int8")]
    assert whole_plan_bytes(rows, "fp16") == 700 + 31 * 400
    assert whole_plan_bytes(rows, "int8") is None
    assert whole_plan_bytes(rows, "int4") is None


def test_the_table_puts_plans_among_the_published_files_by_size():
    lines = plans_table({"rows": [row(1, 700 * 10**6), row(2, 1100 * 10**6)]})
    assert lines[2] == "| sfr-embedding-mistral, random weights | 1 | fp16 | 1 | 700 | 1.5 | 2 |"
    sizes = [line.split("|")[1].strip() for line in lines[-6:]]
    assert sizes[-2:] == ["plan in fp16, computed", "GGUF F16, published"]
    assert lines[-2].endswith("| 13.10 |")


def test_a_plan_in_another_precision_than_asked_for_is_an_error():
    good = {"fused_attentions": 2, "products": {"int8": 8, "half": 2}}  # half: rotations
    check_contents(good, "int8", layers=2)
    with pytest.raises(PeerFailed, match=r"has products \{'int8': 8, .*\}, not \{'half': 8\}"):
        check_contents(good, "fp16", layers=2)
    with pytest.raises(PeerFailed, match="0 of 2 attentions are fused"):
        check_contents({**good, "fused_attentions": 0}, "int8", layers=2)
