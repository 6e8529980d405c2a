"""What the planner refuses of its user's files and numbers, by name and before any work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lasttoken_perf.cli import main
from lasttoken_perf.errors import InvalidCalibration, InvalidPlan, InvalidPrices
from lasttoken_perf.plan.calibration import load_calibration, points_of_result
from lasttoken_perf.plan.model_account import model_account
from lasttoken_perf.plan.prices import TIERS, cheapest, load_prices
from lasttoken_perf.plan.request import PlanRequest, TextLengths, read_lengths, text_lengths
from planner_files import PRICE_HEADING, calibration_point

DIGITS = "9" * 400
ROOT = Path(__file__).parents[2]


def prices(tmp_path, *rows):
    file = tmp_path / "prices.csv"
    file.write_text(PRICE_HEADING + "\n".join(rows) + "\n")
    return load_prices(file)


# ---- prices


@pytest.mark.parametrize("tier", ["preemptible", "on demand", "spott"])
def test_an_unknown_tier_is_refused_with_its_line_and_the_known_ones(tmp_path, tier):
    with pytest.raises(InvalidPrices, match=f"line 3 .*{tier}.*{', '.join(TIERS)}"):
        prices(tmp_path, "L4,A,spot,1,2026-11,x", f"L4,A,{tier},1,2026-11,x")


def test_a_tier_counts_however_it_is_capitalised(tmp_path):
    found = prices(tmp_path, "L4,A,Spot,0.2,2026-11,x", "L4,B,On-Demand,0.7,2026-11,x")
    assert [price.tier for price in found] == ["spot", "on-demand"]
    assert cheapest(found, "L4", reclaimable=False).provider == "B"


def test_a_price_of_an_unknown_gpu_is_refused_with_its_line(tmp_path):
    with pytest.raises(InvalidPrices, match=r"line 3 .*'L40 S'.*known are T4, L4, .*L40S"):
        prices(tmp_path, "", "L40 S,A,spot,1,2026-11,x")  # the empty line counts


@pytest.mark.parametrize("row", ["L4,A,spot,1,2026-11,a page, of theirs", "L4,A,spot,1e300,1,x"])
def test_a_row_of_too_many_columns_or_dollars_is_refused_with_its_line(tmp_path, row):
    with pytest.raises(InvalidPrices, match=r"line 2 of the price file .* quotes"):
        prices(tmp_path, row)


def test_a_row_that_is_no_csv_is_refused_with_its_line(tmp_path):
    with pytest.raises(InvalidPrices, match="line 2 of the price file"):
        prices(tmp_path, "L4,A,spot,1,2026-11," + "x" * 200_000)


def test_the_page_lists_every_tier():
    page = (ROOT / "docs" / "capacity.md").read_text(encoding="utf-8")
    assert all(f"`{tier}`" in page for tier in TIERS)


# ---- a model's folder


@pytest.mark.parametrize("content", [b"{", b"[]", b'"x"', b"\xff\xfe", b"[" * 100_000])
def test_a_config_that_is_no_json_object_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(InvalidPlan, match=r"config.json is not"):
        model_account(str(tmp_path))


def test_a_config_that_cannot_be_read_is_refused(tmp_path):
    (tmp_path / "config.json").mkdir()
    with pytest.raises(InvalidPlan, match="cannot be read"):
        model_account(str(tmp_path))
    with pytest.raises(InvalidPlan, match="cannot be read"):
        model_account("x" * 5000)


# ---- calibration


def points(tmp_path, text):
    file = tmp_path / "points.json"
    file.write_text(text)
    return load_calibration(file)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": ["a"]}, r"model is \['a'\]"),
        ({"model": "nonesuch"}, "'nonesuch' is neither"),
        ({"source": 3}, "source is 3"),
        ({"gpu": ["a"]}, "gpu is"),
        *(
            ({"tokens_per_s": rate}, "tokens_per_s is .* from 0.001 to 1e.12")
            for rate in (1e-310, float("inf"), float("nan"), True, 10**400, "1", None)
        ),
    ],
)
def test_a_bad_point_is_refused_with_file_and_number(tmp_path, changes, message):
    with pytest.raises(InvalidCalibration, match=f"points.json', point 2: .*{message}"):
        points(tmp_path, json.dumps([calibration_point(), calibration_point(**changes)]))


def test_a_point_of_a_broken_folder_is_refused_with_file_and_number(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(InvalidCalibration, match=r"points.json', point 1: model: .*architecture"):
        points(tmp_path, json.dumps([calibration_point(model=str(tmp_path))]))


@pytest.mark.parametrize("text", ["[3]", '[{"gpu": "H200"}]'])
def test_what_is_no_point_is_refused_with_file_and_number(tmp_path, text):
    with pytest.raises(InvalidCalibration, match=r"points.json', point 1 is .*tokens_per_s"):
        points(tmp_path, text)


def test_json_nested_too_deep_is_refused(tmp_path):
    with pytest.raises(InvalidCalibration, match=r"points.json' cannot be read"):
        points(tmp_path, "[" * 100_000)


MEASURED = {
    "subject": "TensorRT", "load": "corpus", "device": "NVIDIA H200", "precision": "fp16",
    "distribution": "256 tokens each", "tokens_per_s": {"median": 35_000.0},
}  # fmt: skip
RESULT = {
    "kind": "gpu", "model": {"name": "sfr-embedding-mistral"}, "summary": [MEASURED],
    "command": "lasttoken-perf gpu", "taken_at": "2026-11-25T00:00:00+00:00",
}  # fmt: skip


@pytest.mark.parametrize("name", ["model", "summary", "command", "taken_at"])
@pytest.mark.parametrize("value", [None, 3])
def test_a_result_with_a_bad_field_is_refused_by_its_name(tmp_path, name, value):
    assert points(tmp_path, json.dumps(RESULT))[0].tokens_per_s == 35_000
    with pytest.raises(InvalidCalibration, match=f"points.json': {name} is {value}"):
        points(tmp_path, json.dumps({**RESULT, name: value}))
    with pytest.raises(InvalidCalibration, match=f"points.json': {name} is None"):
        points(tmp_path, json.dumps({key: RESULT[key] for key in RESULT if key != name}))


@pytest.mark.parametrize(
    "changes",
    [*({name: ["a"]} for name in ("device", "precision", "distribution", "tokens_per_s")),
     {"tokens_per_s": {}}, {"tokens_per_s": {"median": float("inf")}}],
)  # fmt: skip
def test_a_result_with_a_bad_point_is_refused_by_its_number(changes):
    bad = {**MEASURED, **changes}
    [name] = changes
    with pytest.raises(InvalidCalibration, match=f"'r.json', point 2 of summary: {name} is"):
        points_of_result({**RESULT, "summary": [MEASURED, bad]}, "r.json")
    with pytest.raises(InvalidCalibration, match=r"'r.json', point 1 of summary is 'a'"):
        points_of_result({**RESULT, "summary": ["a"]}, "r.json")


# ---- numbers


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("texts_per_s", (float("inf"), float("nan"), 1e308, 1e-320)),
        ("utilisation_ceiling", (1e-320, 1, float("nan"))),
        ("runtime_bytes", (float("inf"), 1e308, -1)),
        ("objective_s", (float("inf"), 1e-320)),
        ("efficiency", (1e-320, float("nan"))),
        ("batch_tokens", (int(DIGITS), 0)),
    ],
)
def test_a_number_without_measure_is_refused_by_its_name(name, values):
    lengths = TextLengths(mean=256, attended=256, longest=2048)
    for value in values:
        with pytest.raises(InvalidPlan, match=f"^{name} is .* it must be from .* to "):
            PlanRequest(model="bge-m3", precisions=("fp16",), lengths=lengths, **{name: value})


def test_lengths_without_measure_are_refused():
    for changes in ({"longest": int(DIGITS)}, {"mean": float("nan")}, {"attended": float("inf")}):
        with pytest.raises(InvalidPlan, match="must"):
            TextLengths(**{"mean": 2, "attended": 2, "longest": 3, **changes})
    with pytest.raises(InvalidPlan, match="a length is 0"):
        text_lengths([4, 0])
    with pytest.raises(InvalidPlan, match="a length is 999"):
        text_lengths([4, int(DIGITS)])


def test_equal_lengths_are_their_own_mean():
    for length in (3, 49, 1_000_003):
        found = text_lengths([length] * 77)
        assert (found.mean, found.longest) == (length, length)
        assert found.attended == pytest.approx(length)


@pytest.mark.parametrize(
    ("text", "message"),
    [("5\n\n0\n", "line 3 of .*lengths.txt' is 0"), ("5\n-3\n", "line 2 .* is -3"),
     (f"5\n{DIGITS}", "line 2 .* is 999"), ("5\n\n1.5", r"line 3 .* is '1\.5'"),
     ("\n", "lengths.txt' holds no length")],
)  # fmt: skip
def test_a_bad_line_of_lengths_is_refused_by_number_and_value(tmp_path, text, message):
    file = tmp_path / "lengths.txt"
    file.write_text(text)
    with pytest.raises(InvalidPlan, match=message):
        read_lengths(file)


def test_lengths_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for name in ("binary", "missing"):
        with pytest.raises(InvalidPlan, match=name):
            read_lengths(tmp_path / name)


# ---- the command


@pytest.mark.parametrize(
    "words",
    [["--texts-per-s", "inf"], ["--objective-ms", "inf"], ["--runtime-gb", "1e308"],
     ["--longest", DIGITS], ["--text-tokens", "nan"]],
)  # fmt: skip
def test_nothing_is_written_of_a_refused_question(tmp_path, capsys, words):
    output = tmp_path / "plan.json"
    assert main(["plan", "--gpu", "H200", *words, "--output", str(output)]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("error: ")
    assert not printed.out
    assert not output.exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [("x.foo", "must end in .png, .svg, .pdf"), ("x", "must end in"), (".png", "must end in"),
     ("folder.svg", "a folder"), ("file/x.svg", "cannot be made")],
)  # fmt: skip
def test_a_plot_that_cannot_be_is_refused_before_the_work(tmp_path, capsys, name, message):
    (tmp_path / "folder.svg").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.iterdir())
    assert main(["plan", "--gpu", "H200", "--plot", str(tmp_path / name)]) == 2
    printed = capsys.readouterr()
    assert message in printed.err
    assert not printed.out
    assert sorted(tmp_path.iterdir()) == before


def test_the_folder_of_a_plot_is_made(tmp_path):
    picture = tmp_path / "new" / "folder" / "plan.PNG"
    words = ["plan", "--gpu", "H200", "--precision", "fp16", "--plot", str(picture)]
    assert main(words) == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_claims_are_about_one_model(capsys):
    assert main(["plan", "--claims", "--model", "qwen3-embedding-0.6b"]) == 2
    assert "--claims is about sfr-embedding-mistral" in capsys.readouterr().err


@pytest.mark.parametrize("words", [(), ("--claims",)])
def test_a_reader_that_leaves_ends_the_command_quietly(words):
    """As `lasttoken-perf plan | head -1`: more than Python's buffer holds, and less."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "lasttoken_perf.cli", "plan", *words]
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, env=buffered, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_claims_have_no_plot(tmp_path, capsys):
    picture = tmp_path / "new" / "plan.svg"
    assert main(["plan", "--claims", "--plot", str(picture)]) == 2
    assert "leave out --plot" in capsys.readouterr().err
    assert not picture.parent.exists()
