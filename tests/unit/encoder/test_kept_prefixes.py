"""Which prefixes are kept, for how long, and how a batch begins with them."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from graph_inputs import KEPT_INPUTS, begin_with_kept, gather_kept, graph_inputs
from kept_prefixes import _MOST_KEPT, _MOST_SEEN, SHORTEST, Beginning, KeptPrefix, KeptPrefixes


def row(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def values(tokens):
    """Two elements a token, which say which token it is."""
    return np.stack([tokens, 1000 + tokens], axis=1).astype(np.float32)


def see(prefixes, *texts):
    """Compute a batch of these; returns the beginning that was kept of it, if any."""
    rows = [row(text) for text in texts]
    beginnings = prefixes.find(rows)
    prefixes.used(beginnings)
    worthy = prefixes.worth_keeping(rows, beginnings)
    if worthy is None:
        return None
    index, length = worthy
    prefixes.keep(rows[index][:length], values(rows[index][:length]))
    return texts[index][:length]


def found(prefixes, text):
    [beginning] = prefixes.find([row(text)])
    if beginning is None:
        return None
    assert beginning.prefix.keys_values.tolist() == values(beginning.prefix.tokens).tolist()
    return text[: beginning.length]


INSTRUCTION = "find the page: "


def test_what_two_texts_begin_with_is_kept_from_the_second_on():
    prefixes = KeptPrefixes(100)
    assert see(prefixes, INSTRUCTION + "cats") is None
    assert found(prefixes, INSTRUCTION + "dogs") is None
    assert see(prefixes, INSTRUCTION + "dogs") == INSTRUCTION
    assert found(prefixes, INSTRUCTION + "birds") == INSTRUCTION
    assert see(prefixes, INSTRUCTION + "birds") is None  # it is kept already
    assert prefixes.tokens == len(INSTRUCTION)
    [prefix] = prefixes._kept.values()
    # No batch, nor a session's arena, stays in memory for it.
    assert prefix.tokens.base is prefix.keys_values.base is None


def test_two_texts_of_one_batch_are_enough():
    prefixes = KeptPrefixes(100)
    assert see(prefixes, "else", INSTRUCTION + "cats", INSTRUCTION + "dogs") == INSTRUCTION


def test_a_part_of_what_is_kept_is_found():
    prefixes = KeptPrefixes(100)
    assert see(prefixes, INSTRUCTION + "cat", INSTRUCTION + "cap") == INSTRUCTION + "ca"
    assert found(prefixes, INSTRUCTION + "dogs") == INSTRUCTION
    assert found(prefixes, INSTRUCTION[:SHORTEST] + "!!") == INSTRUCTION[:SHORTEST]
    assert found(prefixes, INSTRUCTION[: SHORTEST - 1] + "!!!") is None


def test_a_rows_last_token_is_never_found():
    prefixes = KeptPrefixes(100)
    see(prefixes, INSTRUCTION + "cats", INSTRUCTION + "dogs")
    assert found(prefixes, INSTRUCTION) == INSTRUCTION[:-1]
    assert found(prefixes, INSTRUCTION[: SHORTEST + 1]) == INSTRUCTION[:SHORTEST]
    assert found(prefixes, INSTRUCTION[:SHORTEST]) is None


def test_a_text_that_comes_again_is_not_kept():
    prefixes = KeptPrefixes(100)
    text = "x" * 30
    for _ in range(3):
        assert see(prefixes, text, text) is None
        assert see(prefixes, "y" * 90) is None  # longer than what is ever kept
    # Nor one that is the beginning of another: it is no instruction.
    assert see(prefixes, text + text) is None
    assert see(prefixes, text) is None


def test_instructions_that_begin_alike_and_come_in_turn_are_kept_each():
    prefixes = KeptPrefixes(400)
    instructions = [f"find the page {what}: " for what in ("of a cat", "for a dog", "like a cow")]
    for number in range(4):
        for instruction in instructions:
            see(prefixes, f"{instruction}{number}")
            see(prefixes, f"{instruction}{number}")  # and a text that comes again hides none
    for instruction in instructions:
        assert found(prefixes, f"{instruction}?") == instruction


def test_few_tokens_are_not_kept():
    prefixes = KeptPrefixes(100)
    begun = INSTRUCTION[: SHORTEST - 1]
    assert see(prefixes, begun + "cats", begun + "dogs") is None
    assert see(prefixes, "a", "b", "ab", "ac") is None
    begun = INSTRUCTION[:SHORTEST]
    assert see(prefixes, begun + "cats", begun + "dogs") == begun
    # Nor so few more than are kept already.
    assert see(prefixes, begun + "1234567 a", begun + "1234567 b") == begun + "1234567 "
    assert see(prefixes, begun + "1234567 1234567c", begun + "1234567 1234567d") is None


def test_of_a_batch_that_is_kept_which_saves_most():
    short, longer = ("short one 1", "short one 2"), ("the longer one 1", "the longer one 2")
    for texts in ((*short, *longer), (*longer, *short)):
        assert see(KeptPrefixes(100), *texts) == "the longer one "


def test_a_longer_one_takes_the_place_of_its_beginning():
    prefixes = KeptPrefixes(100)
    see(prefixes, INSTRUCTION + "cats", INSTRUCTION + "dogs")
    longer = INSTRUCTION + "the one of "
    assert see(prefixes, longer + "cats", longer + "dogs") == longer
    assert prefixes.tokens == len(longer)
    # What another thread has computed meanwhile is not kept twice.
    for meanwhile in (INSTRUCTION, longer):
        prefixes.keep(row(meanwhile), values(row(meanwhile)))
        assert prefixes.tokens == len(longer)
    assert found(prefixes, longer + "birds") == longer


def test_no_prefix_takes_more_than_half():
    prefixes = KeptPrefixes(40)
    assert see(prefixes, "z" * 30 + "1", "z" * 30 + "2") == "z" * 20
    assert see(prefixes, "z" * 30 + "3") is None
    assert found(prefixes, "z" * 31) == "z" * 20


def test_the_one_unused_for_longest_goes_first():
    prefixes = KeptPrefixes(40)
    for begun in ("aaaaaaaaaaaa", "bbbbbbbbbbbb", "cccccccccccc"):
        assert see(prefixes, begun + "1", begun + "2") == begun
    assert prefixes.tokens == 36
    see(prefixes, "aaaaaaaaaaaa!")  # used again
    see(prefixes, "dddddddddddd1", "dddddddddddd2")
    assert prefixes.tokens == 36
    assert found(prefixes, "aaaaaaaaaaaa?") == "aaaaaaaaaaaa"
    assert found(prefixes, "bbbbbbbbbbbb?") is None
    assert found(prefixes, "cccccccccccc?") == "cccccccccccc"


def test_what_is_remembered_is_bounded():
    prefixes = KeptPrefixes(100_000)
    for number in range(2 * _MOST_SEEN):
        begun = f"{number:08}"
        see(prefixes, begun + "1", begun + "2")
        see(prefixes, f"-{number:07}")
    assert prefixes.tokens == _MOST_KEPT * SHORTEST
    assert len(prefixes._kept) == sum(map(len, prefixes._by_beginning.values())) == _MOST_KEPT
    assert len(prefixes._by_beginning) == _MOST_KEPT
    assert len(prefixes._seen) == _MOST_SEEN
    # And none of it holds a whole batch in memory.
    assert all(head.base is None for seen in prefixes._seen.values() for head, _ in seen)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_overflowed_is_not_kept(bad):
    prefixes = KeptPrefixes(100)
    spoiled = values(row(INSTRUCTION))
    spoiled[3, 1] = bad
    prefixes.keep(row(INSTRUCTION), spoiled)
    assert prefixes.tokens == 0
    assert found(prefixes, INSTRUCTION + "cats") is None


def test_a_prefix_that_has_gone_meanwhile_is_no_error():
    prefixes = KeptPrefixes(40)
    see(prefixes, "aaaaaaaaaaaa1", "aaaaaaaaaaaa2")
    beginnings = prefixes.find([row("aaaaaaaaaaaa?"), row("b")])
    prefixes.keep(row("b" * 20), values(row("b" * 20)))
    prefixes.keep(row("c" * 20), values(row("c" * 20)))
    prefixes.used(beginnings)
    assert prefixes.tokens == 40


def test_threads_may_share_them():
    prefixes = KeptPrefixes(200)

    def work(thread):
        random = np.random.default_rng(thread)
        for number in range(300):
            begun = f"instruction {random.integers(12):02}: "
            see(prefixes, f"{begun}{thread} {number}")
            got = found(prefixes, f"{begun}?")
            assert got is None or begun.startswith(got)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert prefixes.tokens == sum(len(prefix.tokens) for prefix in prefixes._kept.values())
    assert 0 < prefixes.tokens <= 200


NOTHING = np.zeros((0, 2), np.float32)


def begin(rows, beginnings):
    lengths = np.array(list(map(len, rows)), np.int32)
    inputs = graph_inputs(np.concatenate(rows), lengths, shares_prefixes=True)
    begun, parts = begin_with_kept(inputs, beginnings)
    return inputs, begun | gather_kept(parts, NOTHING)


def shown(inputs):
    """The token in each slot of each row, kept ones by their values."""
    known = np.concatenate([inputs["kept"][:, 0].astype(np.int32), inputs["input_ids"]])
    return known[inputs["token_of_slot"]].tolist()


def test_nothing_kept_leaves_a_batch_as_it_is():
    inputs, begun = begin([row("abc"), row("abd")], [None, None])
    assert set(begun) == set(KEPT_INPUTS)
    assert all(begun[name] is inputs[name] for name in inputs)
    assert begun["kept"] is NOTHING
    assert begun["to_keep"].shape == (0,)
    assert begun["to_keep"].dtype == np.int32


PREFIX = KeptPrefix(row("instruction: "), values(row("instruction: ")))
OTHER = KeptPrefix(row("passages of "), values(row("passages of ")))


@pytest.mark.parametrize(
    ("texts", "lengths", "kept", "computed"),
    [
        (["instruction: cat"], [(PREFIX, 13)], "instruction: ", "cat"),
        # one prefix for several rows, once; what they share behind it is computed once
        (["instruction: cat", "x", "instruction: cap"], [(PREFIX, 13), None, (PREFIX, 13)],
         "instruction: ", "captx"),
        # a part of a prefix, and rows that go different lengths with it
        (["instruct me", "instruction: a"], [(PREFIX, 8), (PREFIX, 13)], "instruction: ", " mea"),
        # a row's last token is computed, though it is in the middle of what is kept
        (["instruct", "instruction: a"], [(PREFIX, 7), (PREFIX, 13)], "instrucion: ", "ta"),
        # two prefixes
        (["passages of x", "instruction: a", "passages of y"],
         [(OTHER, 12), (PREFIX, 13), (OTHER, 12)], "passages of instruction: ", "axy"),
    ],
)  # fmt: skip
def test_a_batch_begins_with_what_is_kept(texts, lengths, kept, computed):
    rows = [row(text) for text in texts]
    beginnings = [None if one is None else Beginning(*one) for one in lengths]
    inputs, begun = begin(rows, beginnings)
    assert bytes(begun["kept"][:, 0].astype(np.uint8)).decode() == kept
    assert (begun["kept"][:, 1] == begun["kept"][:, 0] + 1000).all()
    assert sorted(begun["input_ids"].tolist()) == sorted(row(computed).tolist())
    plain = dict(inputs, kept=NOTHING)
    assert shown(begun) == shown(plain)
    assert begun["row_lengths"] is inputs["row_lengths"]
    for name in ("token_of_slot", "slot_of_token", "to_keep", "input_ids"):
        assert begun[name].dtype == np.int32
    # The slot of each computed token shows it, and a row's last token is among these.
    slots = begun["token_of_slot"].ravel()[begun["slot_of_token"]]
    assert slots.tolist() == list(range(len(kept), len(kept) + len(computed)))
    assert (begun["token_of_slot"][:, -1] >= len(kept)).all()


def test_two_prefixes_that_begin_alike_give_each_token_once():
    one = KeptPrefix(row("instruction: a"), values(row("instruction: a")))
    two = KeptPrefix(row("instruction: b"), values(row("instruction: b")))
    rows = [row("instruction: ax"), row("instruction: by")]
    inputs, begun = begin(rows, [Beginning(one, 14), Beginning(two, 14)])
    assert len(begun["kept"]) == 15
    assert shown(begun) == shown(dict(inputs, kept=NOTHING))
    assert begun["input_ids"].tolist() == row("xy").tolist()
