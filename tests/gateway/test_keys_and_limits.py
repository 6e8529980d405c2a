"""Keys and rate limits, without a server."""

from __future__ import annotations

import hashlib
import os

import pytest

from lasttoken import InvalidInput
from lasttoken.gateway.keys import KeyRing, parse_keys
from lasttoken.gateway.limits import Bucket, RateLimiter

ALICE = "alice-secret-0123456789"
BOB = "bob-secret-0123456789ab"


def write(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    stamp = path.stat().st_mtime_ns + 1_000_000  # a clock's tick is too coarse for a test
    os.utime(path, ns=(stamp, stamp))


def test_keys_are_found_by_their_value_and_kept_as_digests(tmp_path):
    file = tmp_path / "keys"
    digest = hashlib.sha256(BOB.encode()).hexdigest()
    write(
        file, "# ours", "", f"alice {ALICE} requests=60 tokens=1000 # first", f"bob sha256:{digest}"
    )
    ring = KeyRing(file=file)
    alice, bob = ring.find(ALICE), ring.find(BOB)
    assert (alice.name, alice.requests, alice.texts, alice.tokens) == ("alice", 60, None, 1000)
    assert (bob.name, bob.requests) == ("bob", None)
    for wrong in ("", "alice", ALICE[:-1], ALICE + "x", digest, f"sha256:{digest}", "\udc80"):
        assert ring.find(wrong) is None
    assert ALICE not in repr(vars(ring))


def test_keys_are_replaced_without_a_restart(tmp_path):
    file = tmp_path / "keys"
    write(file, f"alice {ALICE}")
    ring = KeyRing(file=file, direct=f"root {'r' * 20}; ops {'o' * 20}")
    assert not ring.refresh()
    replacement = tmp_path / "new"
    write(replacement, f"bob {BOB}")
    replacement.replace(file)
    assert ring.refresh()
    assert ring.find(ALICE) is None
    assert ring.find(BOB).name == "bob"
    assert ring.find("r" * 20).name == "root"


@pytest.mark.parametrize("broken", ["alice", "alice short", "", None])
def test_a_broken_file_leaves_the_old_keys(tmp_path, broken):
    file = tmp_path / "keys"
    write(file, f"alice {ALICE}")
    ring = KeyRing(file=file)
    if broken is None:
        file.unlink()
    else:
        write(file, broken)
    with pytest.raises(InvalidInput):
        ring.refresh()
    assert not ring.refresh()  # said once
    assert ring.find(ALICE).name == "alice"
    write(file, f"bob {BOB}")
    assert ring.refresh()
    assert ring.find(ALICE) is None


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([f"a {ALICE}", f"a {BOB}"], "same name"),
        ([f"a {ALICE}", f"b {ALICE}"], "same value"),
        ([f"a {ALICE} tokens=0"], "'tokens=0' is no limit"),
        ([f"a {ALICE} tokens=5 tokens=6"], "is no limit"),
        ([f"a {ALICE} words=5"], "is no limit"),
        (["", "a k"], "line 2: the key of 'a' has 1 char"),
        ([f"a=b {ALICE}"], "a name has"),
    ],
)
def test_bad_lines_are_refused_without_showing_a_key(lines, words):
    with pytest.raises(InvalidInput, match=words) as error:
        parse_keys(lines, source="keys")
    assert ALICE not in str(error.value)


def test_every_key_is_compared(monkeypatch):
    compared = []
    monkeypatch.setattr("hmac.compare_digest", lambda a, b: compared.append(a) or a == b)
    ring = KeyRing(direct=f"a {ALICE}; b {BOB}; c {'c' * 16}")
    assert ring.find(ALICE).name == "a"
    assert len(compared) == 3


def test_a_bucket_holds_a_minute_and_pays_its_debts():
    bucket = Bucket(60, now=0.0)
    assert bucket.wait_s(60, 0.0) == 0
    bucket.take(60, 0.0)
    assert bucket.wait_s(1, 0.0) == pytest.approx(1.0)
    assert bucket.wait_s(1, 1.0) == 0
    assert bucket.wait_s(600, 59.0) == pytest.approx(1.0)  # more than it ever holds: when full
    bucket.take(600, 60.0)
    assert bucket.wait_s(1, 60.0) == pytest.approx(541.0)
    assert bucket.level(10_000.0) == 60


def test_a_key_is_held_to_each_of_its_limits():
    now = [0.0]
    limiter = RateLimiter(clock=lambda: now[0])
    [a, b] = parse_keys([f"a {ALICE} requests=2 texts=10 tokens=100", f"b {BOB}"], source="")
    assert limiter.admit_request(a) is None
    assert limiter.admit_texts(a, 8) is None
    limiter.charge_tokens(a, 50)
    exceeded = limiter.admit_texts(a, 8)
    assert (exceeded.kind, exceeded.retry_after_s) == ("texts", 36)
    assert limiter.admit_request(a) is None
    assert limiter.admit_request(a).kind == "requests"
    assert limiter.headers(a)["x-ratelimit-remaining-texts"] == "2"
    now[0] = 60.0
    limiter.charge_tokens(a, 300)
    exceeded = limiter.admit_request(a)
    assert (exceeded.kind, exceeded.retry_after_s) == ("tokens", 121)
    for _ in range(100):
        assert limiter.admit_request(b) is None
    assert limiter.headers(b) == {}
