"""The form of a result: what it must hold, what it refuses, how repeats are put together."""

import json

import pytest

from lasttoken_perf.errors import MalformedResult
from lasttoken_perf.results import FIELDS, make_result, read_result, summarise


def rows():
    point = {"subject": "lasttoken server", "load": "concurrency", "concurrency": 8}
    return [
        {**point, "repeat": 1, "p50_ms": 30.0, "texts_per_s": 100.0},
        {**point, "repeat": 2, "p50_ms": 20.0, "texts_per_s": 80.0},
        {**point, "concurrency": 16, "repeat": 1, "p50_ms": 50.0},
        {**point, "repeat": 3, "p50_ms": 10.0, "texts_per_s": 90.0},
        {**point, "repeat": 4, "p50_ms": 1.0, "discarded": "not able to keep up"},
    ]


def test_repeats_are_put_together_and_points_kept_apart():
    first, second = summarise(rows())
    assert first["repeats"] == 3
    assert first["concurrency"] == 8
    assert first["p50_ms"] == {"min": 10.0, "median": 20.0, "max": 30.0}
    assert first["texts_per_s"]["median"] == 90.0
    assert second["concurrency"] == 16
    assert "texts_per_s" not in second  # not measured is not zero
    assert "repeat" not in first


def test_a_result_says_where_it_comes_from_and_reads_back(tmp_path):
    result = make_result(kind="latency", what="a test", rows=rows(), model={"name": "x"})
    assert result["machine"]["cores"] >= 1
    assert result["machine"]["packages"]["numpy"]
    assert result["revision"] is None or len(result["revision"]["commit"]) == 40
    assert len(result["rows"]) == 5
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    assert read_result(path) == result


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda result: result.update(schema=99), "schema is 99"),
        (lambda result: result.pop("machine"), "no 'machine'"),
        (lambda result: result["rows"][1].update(p51_ms=1.0), r"row 1 .*'p51_ms'"),
        (lambda result: result["rows"][0].update(p50_ms=float("nan")), "row 0: p50_ms"),
    ],
    ids=["another schema", "a section missing", "an undocumented field", "not a number"],
)
def test_what_is_not_a_result_is_refused(spoil, message, tmp_path):
    result = make_result(kind="latency", what="a test", rows=rows())
    spoil(result)
    path = tmp_path / "result.json"
    path.write_text(json.dumps(result))
    with pytest.raises(MalformedResult, match=message):
        read_result(path)


def test_an_undocumented_field_is_not_written_either():
    with pytest.raises(MalformedResult, match="'speed'"):
        make_result(kind="latency", what="a test", rows=[{"speed": 1.0}])


def test_every_field_is_documented_in_words():
    assert all(len(meaning) > 10 for meaning in FIELDS.values())
