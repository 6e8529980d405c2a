"""Replicas, prices, calibration and the command of the planner."""

import argparse
import json

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
from lasttoken_perf.plan.request import PlanRequest, TextLengths, text_lengths

HEADING = "gpu,provider,tier,usd_per_hour,listed,source\n"


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
    file.write_text(HEADING + "H100-SXM,Here,on-demand,2.5,2026-11,a page\n")
    plan = plans(request(texts_per_s=500), load_prices(file))["H100-SXM", "fp16"]
    assert plan.replicas.replicas == 5
    assert plan.cost_per_hour.value == 12.5
    assert plan.cost_per_million_texts.value == pytest.approx(12.5 / (500 * 3600) * 1e6)
    assert plan.cost_per_million_tokens.value * 256 == plan.cost_per_million_texts.value
    assert plans(request())["H100-SXM", "fp16"].cost_per_hour is None  # no price is known


def test_what_can_be_reclaimed_is_said_and_can_be_left_out(tmp_path):
    file = tmp_path / "prices.csv"
    file.write_text(HEADING + "L4,A,spot,0.2,2026-11,x\nL4,B,on-demand,0.7,2026-11,x\n")
    prices = load_prices(file)
    assert cheapest(prices, "L4", reclaimable=True).reclaimable
    assert cheapest(prices, "L4", reclaimable=False).provider == "B"
    assert cheapest(prices, "T4", reclaimable=True) is None


@pytest.mark.parametrize(
    "row", ["L4,A,spot,cheap,2026-11,x", "L4,A,spot,-1,2026-11,x", "L4,A,,1,2026-11,x"]
)
def test_a_bad_price_names_its_line(tmp_path, row):
    file = tmp_path / "prices.csv"
    file.write_text(f"{HEADING}{row}\n")
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


def point(**changes):
    values = {
        "gpu": "H200", "model": "e5-mistral-7b-instruct", "precision": "fp16",
        "tokens_per_s": 40_000, "basis": "measured", "source": "a run",
    }  # fmt: skip
    return {**values, **changes}


def calibration(tmp_path, *points):
    file = tmp_path / "points.json"
    file.write_text(json.dumps(points))
    return load_calibration(file)


def test_a_measured_point_of_the_same_shape_overrides_the_roofline(tmp_path):
    points = calibration(tmp_path, point(basis="published", tokens_per_s=1), point())
    found = plans(request(precisions=("fp16", "bf16")), points=points)
    assert found["H200", "fp16"].rate.value == 40_000
    assert found["H200", "fp16"].rate.basis.value == "measured"
    assert found["H200", "fp16"].to_json()["rate"]["source"] == "a run"
    assert found["H200", "bf16"].rate.basis.value == "computed"
    other = plans(request(model="gte-qwen2-7b-instruct"), points=points)
    assert other["H200", "fp16"].rate.basis.value == "computed"


@pytest.mark.parametrize(
    "changes", [{"gpu": "Z80"}, {"basis": "guessed"}, {"tokens_per_s": 0}, {"source": ""}]
)
def test_a_bad_point_is_refused(tmp_path, changes):
    with pytest.raises(InvalidCalibration):
        calibration(tmp_path, point(**changes))


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


def test_a_mean_beyond_the_longest_is_refused():
    with pytest.raises(InvalidPlan):
        answer("--text-tokens", "600", "--longest", "512")
