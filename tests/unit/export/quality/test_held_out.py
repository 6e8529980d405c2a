"""No text that precisions are measured on is one that they are calibrated on."""

import re

import pytest

from lasttoken_export.checkpoint import default_cache_folder
from lasttoken_export.quality.debian_index import SUITE
from lasttoken_export.quality.quality_options import SETS
from lasttoken_export.quality.sets import open_set
from lasttoken_export.quantisation.texts import default_texts

SHINGLE_WORDS = 8


def shingles(text):
    words = re.findall(r"\w+", text.casefold())
    return {
        " ".join(words[start : start + SHINGLE_WORDS])
        for start in range(len(words) - SHINGLE_WORDS + 1)
    }


@pytest.mark.parametrize("name", SETS)
def test_calibration_and_measurement_share_no_passage(name, cache_folder):
    kept = (cache_folder or default_cache_folder()) / "retrieval"
    if name == "debian" and not list(kept.glob(f"debian-{SUITE}-*")):
        pytest.skip("the index has not been fetched")
    calibrated = set().union(*map(shingles, default_texts()))
    assert len(calibrated) > 1000
    texts = open_set(name, cache_folder=cache_folder)
    shared = {s for text in (*texts.queries, *texts.documents) for s in shingles(text)}
    assert not shared & calibrated
