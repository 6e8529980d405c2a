"""Replicas, prices, calibration and the command of the planner."""

import argparse
import json
from pathlib import Path
from statistics import median

import pytest

from lasttoken_perf.commands.plan import COMMAND
from lasttoken_perf.errors import InvalidCalibration, InvalidPlan, InvalidPrices
from lasttoken_perf.plan.calibration import load_calibration
from lasttoken_perf.plan.devices import load_devices
from lasttoken_perf.plan.model_account import model_account
from lasttoken_perf.plan.planner import plan_all
from lasttoken_perf.plan.prices import cheapest, load_prices
from lasttoken_perf.plan.published_claims import check_claims
from lasttoken_perf.plan.replicas import plan_replicas
from lasttoken_perf.plan.request import HOST_TEXTS_PER_S, PlanRequest, TextLengths, text_lengths
from planner_files import PRICE_HEADING, calibration_point


def request(**changes):
    values = {
        "model": "sfr-embedding-mistral",
        "precisions": ("fp16",),
        "lengths": TextLengths(mean=256, attended=256, longest=2048),
    }
    return PlanRequest(**{**values, **changes})


def plans(asked, prices=None, points=()):
    model = model_account(asked.model)
    found = plan_all(asked, model, load_devices(), prices or load_prices(), points)
    return {(plan.device.name, plan.precision): plan for plan in found}


def replicas(**changes):
    values = {
        "load_tokens_s": 10_000,
        "capacity_tokens_s": 5_000,
        "floor_s": 0.01,
        "objective_s": 1.0,
        "utilisation_ceiling": 0.8,
    }
    return plan_replicas(**{**values, **changes})


def test_replicas_keep_under_the_ceiling():
    plan = replicas()
    assert plan.replicas == 3  # two would be full
    assert plan.utilisation == pytest.approx(2 / 3)
    assert plan.p99_s == pytest.approx(0.02 / (1 - 2 / 3))


def test_a_tight_objective_takes_more_replicas_until_none_will_do():
    assert replicas(objective_s=0.03).p99_s <= 0.03
    assert replicas(objective_s=0.03).replicas > replicas().replicas
    assert replicas(objective_s=0.02) is None


def test_costs_follow_from_price_replicas_and_load(tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text(PRICE_HEADING + "H100-SXM,Here,on-demand,2.5,2026-11,a page\n")
    plan = plans(request(texts_per_s=500), load_prices(file))["H100-SXM", "fp16"]
    assert plan.replicas.replicas == 5
    assert plan.cost_per_hour.value == 12.5
    assert plan.cost_per_million_texts.value == pytest.approx(12.5 / (500 * 3600) * 1e6)
    assert plan.cost_per_million_tokens.value * 256 == plan.cost_per_million_texts.value
    assert plans(request())["H100-SXM", "fp16"].cost_per_hour is None  # no price is known


def test_what_can_be_reclaimed_is_said_and_can_be_left_out(tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text(PRICE_HEADING + "L4,A,spot,0.2,2026-11,x\nL4,B,on-demand,0.7,2026-11,x\n")
    prices = load_prices(file)
    assert cheapest(prices, "L4", reclaimable=True).reclaimable
    assert cheapest(prices, "L4", reclaimable=False).provider == "B"
    assert cheapest(prices, "T4", reclaimable=True) is None


@pytest.mark.parametrize(
    "row", ["L4,A,spot,cheap,2026-11,x", "L4,A,spot,-1,2026-11,x", "L4,A,,1,2026-11,x"]
)
def test_a_bad_price_names_its_line(tmp_path, row):
    file = tmp_path / "prices.csv"
    file.write_text(f"{PRICE_HEADING}{row}\n")
    with pytest.raises(InvalidPrices, match="line 2"):
        load_prices(file)


def test_a_price_file_with_other_columns_is_refused(tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text("gpu,price\nL4,1\n")
    with pytest.raises(InvalidPrices, match="usd_per_hour"):
        load_prices(file)


def test_the_shipped_prices_have_date_and_source():
    assert {price.gpu for price in load_prices()} <= {device.name for device in load_devices()}
    assert all(price.listed and price.source for price in load_prices())


def calibration(tmp_path, *points):
    file = tmp_path / "points.json"
    file.write_text(json.dumps(points))
    return load_calibration(file)


def test_a_measured_point_of_the_same_shape_overrides_the_roofline(tmp_path):
    points = calibration(
        tmp_path, calibration_point(basis="published", tokens_per_s=1), calibration_point()
    )
    found = plans(request(precisions=("fp16", "bf16")), points=points)
    assert found["H200", "fp16"].rate.value == 40_000
    assert found["H200", "fp16"].rate.basis.value == "measured"
    assert found["H200", "fp16"].to_json()["rate"]["source"] == "a run"
    assert found["H200", "bf16"].rate.basis.value == "computed"
    assert (
        "leave the range" in plans(request(model="gte-qwen2-7b-instruct"))["H200", "fp16"].refusal
    )
    other = plans(request(model="bge-m3"), points=points)
    assert other["H200", "fp16"].rate.basis.value == "computed"


def test_a_point_scales_the_arithmetic_of_one_text_but_not_its_reading_of_the_weights(tmp_path):
    def plan(rate):
        points = calibration(tmp_path, calibration_point(gpu="L40S", tokens_per_s=rate))
        return plans(request(), points=points)["L40S", "fp16"]

    # The figures of docs/capacity.md.
    measured, roofline = plan(20_000), plans(request())["L40S", "fp16"]
    assert (measured.single_bound, measured.longest_bound) == ("memory", "compute")
    assert measured.single_text.value == pytest.approx(18.1, abs=0.05)
    assert measured.longest_text.value == pytest.approx(105.8, abs=0.05)
    assert roofline.longest_text.value == pytest.approx(178.3, abs=0.05)
    # The same rate as the roofline's is the same plan; half of it takes twice the time.
    same, half = plan(roofline.rate.value), plan(roofline.rate.value / 2)
    assert same.single_text.value == pytest.approx(roofline.single_text.value)
    assert same.longest_p99.value == pytest.approx(roofline.longest_p99.value)
    assert half.single_text.value == pytest.approx(2 * roofline.single_text.value)
    assert half.single_text.value == pytest.approx(256 / half.rate.value * 1e3)
    assert plan(1e9).single_text.value == measured.single_text.value
    bases = [f.basis.value for f in (half.rate, half.single_text, half.longest_text)]
    assert bases == ["measured", "computed", "computed"]
    page = (Path(__file__).parents[2] / "docs" / "capacity.md").read_text(encoding="utf-8")
    for shown in ("12.8 ms of arithmetic", "`18.1 c (memory)`", "105.8 ms", "178.3 ms"):
        assert shown in page


def test_a_small_model_is_bound_by_the_server_around_its_encoder():
    short = TextLengths(mean=32, attended=32, longest=256)
    found = plans(request(model="all-minilm-l6-v2", lengths=short))["H100-SXM", "fp16"]
    assert (found.rate.value, found.rate_bound) == (3500 * 32, "host")
    assert found.replicas.utilisation == pytest.approx(100 / 3500)
    wider = request(model="all-minilm-l6-v2", lengths=short, host_texts_per_s=1e9)
    free = plans(wider)["H100-SXM", "fp16"]
    assert free.rate_bound == "compute"
    assert free.rate.value > 100 * found.rate.value
    assert plans(request())["H100-SXM", "fp16"].rate_bound == "compute"  # SFR is slower than that


def test_the_servers_own_share_is_what_was_measured():
    file = Path(__file__).parents[2] / "docs" / "measurements" / "client-overhead.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    measured = [
        row["texts_per_s"]
        for row in rows
        if (row["subject"], row["variant"]) == ("tritonclient, asyncio", "384 dimensions")
    ]
    assert median(measured) == pytest.approx(HOST_TEXTS_PER_S, rel=0.02)


def test_a_time_below_what_is_shown_is_not_zero(capsys):
    answer("--model", "all-minilm-l6-v2", "--gpu", "H200", "--precision", "fp16")
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| H200")]
    assert "<0.1 c" in row
    assert "<1 c" in row
    assert "| host |" in row
    assert " 0.0 c" not in row


def test_the_longest_text_waits_as_any_other_and_takes_its_own_time():
    found = plans(request())["L40S", "fp16"]
    longer_ms = found.longest_text.value - found.single_text.value
    assert longer_ms > 150
    assert found.longest_p99.value == pytest.approx(found.replicas.p99_s * 1e3 + longer_ms)
    assert found.replicas.p99_s <= 0.2
    assert not found.longest_meets_objective
    assert plans(request(objective_s=0.5))["L40S", "fp16"].longest_meets_objective
    equal = TextLengths(mean=256, attended=256, longest=256)
    even = plans(request(lengths=equal))["L40S", "fp16"]
    assert even.longest_p99.value == pytest.approx(even.replicas.p99_s * 1e3)
    assert even.longest_meets_objective
    assert found.to_json()["longest_p99"]["basis"] == "computed"


@pytest.mark.parametrize(
    "changes", [{"gpu": "Z80"}, {"basis": "guessed"}, {"tokens_per_s": 0}, {"source": ""}]
)
def test_a_bad_point_is_refused(tmp_path, changes):
    with pytest.raises(InvalidCalibration):
        calibration(tmp_path, calibration_point(**changes))


def test_what_does_not_fit_says_what_it_needs():
    found = plans(request())
    assert "needs 15.9 of 8 GB" in found["RTX 3070", "fp16"].refusal
    assert found["RTX 3070", "fp16"].rate is None
    # 16 GB hold SFR in fp16 only with a lower budget when more is kept for the runtime.
    lowered = plans(request(runtime_bytes=1.2e9, objective_s=10))["T4", "fp16"]
    assert not lowered.refusal
    assert 2048 <= lowered.batch_tokens < 8192
    assert lowered.memory.total <= 16e9


def test_options_come_first_and_the_cheapest_at_the_top():
    found = list(plans(request(precisions=("fp16", "int8"))).values())
    refused = [bool(plan.refusal) for plan in found]
    assert refused == sorted(refused)
    costs = [plan.cost_per_hour.value for plan in found if plan.cost_per_hour]
    assert costs == sorted(costs)
    assert costs


def test_published_memory_agrees_with_the_account_and_speed_does_not():
    checks = check_claims()
    assert [check.agrees for check in checks] == [True, True, True, True, False, False]
    assert "16 GB" in checks[0].why
    assert "at once" in checks[4].why


def test_long_texts_weigh_in_by_their_squares():
    lengths = text_lengths([10, 10, 100])
    assert lengths.mean == 40
    assert lengths.attended == pytest.approx(10_200 / 120)
    assert lengths.longest == 100
    with pytest.raises(InvalidPlan):
        text_lengths([])


def test_settings_out_of_range_are_refused():
    for changes in ({"efficiency": 1.5}, {"texts_per_s": 0}, {"precisions": ("fp7",)}):
        with pytest.raises(InvalidPlan):
            request(**changes)


def answer(*words):
    parser = argparse.ArgumentParser()
    COMMAND.add_arguments(parser)
    return COMMAND.run(parser.parse_args(words))


def test_the_command_gives_table_json_and_plot(tmp_path, capsys):
    lengths, picture = tmp_path / "lengths.txt", tmp_path / "plan.svg"
    lengths.write_text("12\n400\n33\n")
    found = answer("--gpu", "H200", "--gpu", "L4", "--precision", "fp16",
                   "--lengths", str(lengths), "--plot", str(picture))  # fmt: skip
    json.dumps(found)
    assert found["lengths"]["longest"] == 400
    assert {plan["gpu"] for plan in found["plans"]} == {"H200", "L4"}
    bases = {plan["rate"]["basis"] for plan in found["plans"]}
    assert bases == {"computed"}
    assert "| H200 | fp16 |" in capsys.readouterr().out
    assert "H200, fp16" in picture.read_text()


def test_the_published_figure_is_marked_as_such(capsys):
    answer("--model", "qwen3-embedding-8b", "--gpu", "H100-SXM", "--precision", "bf16")
    assert "33,000 p" in capsys.readouterr().out


def test_the_table_says_whose_p99_it_is_and_which_longest_texts_are_beyond(capsys):
    words = ("--gpu", "L40S", "--gpu", "H200", "--precision", "fp16")
    rows = {}
    for objective in ("200", "500"):
        answer(*words, "--objective-ms", objective)
        printed = capsys.readouterr().out
        assert f"p99 of a text of mean length within {objective} ms" in printed.partition("\n")[0]
        assert "of a text of mean length: this is held against the objective" in printed
        table = [line.split(" | ") for line in printed.splitlines() if line.startswith("| ")]
        column = table[0].index("longest p99 ms")
        rows[objective] = {row[0]: row[column].endswith("!") for row in table[1:]}
    assert rows["200"] == {"| H200": False, "| L40S": True}
    assert rows["500"] == {"| H200": False, "| L40S": False}


def test_a_text_alone_beyond_the_objective_is_said_to_be_of_mean_length():
    assert "of mean length alone" in plans(request(objective_s=0.01))["L40S", "fp16"].refusal


def test_the_longest_text_is_the_models_where_that_is_shorter():
    words = ("--gpu", "L4", "--precision", "fp16", "--model")
    assert answer(*words, "all-minilm-l6-v2")["lengths"]["longest"] == 256
    assert answer(*words, "bge-m3")["lengths"]["longest"] == 2048
    with pytest.raises(InvalidPlan, match="has 257 tokens, and all-minilm-l6-v2 takes 256"):
        answer(*words, "all-minilm-l6-v2", "--longest", "257")
    assert answer(*words, "bge-m3", "--longest", "8192")["lengths"]["longest"] == 8192


def test_lengths_beyond_the_models_maximum_are_refused(tmp_path):
    lengths = tmp_path / "lengths.txt"
    lengths.write_text("12\n400\n")
    with pytest.raises(InvalidPlan, match="has 400 tokens"):
        answer("--model", "all-minilm-l6-v2", "--lengths", str(lengths))


def test_a_mean_beyond_the_longest_is_refused():
    with pytest.raises(InvalidPlan):
        answer("--text-tokens", "600", "--longest", "512")
