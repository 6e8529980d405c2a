"""Tables of results, and what stands in their cells."""

from lasttoken_perf.tables import in_short, markdown_table


def test_a_reason_is_told_in_one_line_with_the_last_words():
    assert in_short("no GPU\nx") == "no GPU"
    assert in_short("ended with 1:\nTraceback\n  File\nOSError: a | b\n\n") == (
        "ended with 1: OSError: a | b"
    )


def test_a_reason_in_a_line_names_the_error():
    traceback = "Traceback (most recent call last):\n  File ...\nRuntimeError: no card\n"
    assert in_short(f"its process ended with 1: {traceback}") == (
        "its process ended with 1: RuntimeError: no card"
    )
    assert in_short("failed: WrongAnswer: off\nby much") == "failed: WrongAnswer: off"
    assert in_short("") == ""


def test_a_bar_in_a_cell_does_not_begin_another():
    table = list(markdown_table(["who", "why"], [["peer", "a | b"]]))
    assert table == ["| who | why |", "|---|---|", "| peer | a \\| b |"]
