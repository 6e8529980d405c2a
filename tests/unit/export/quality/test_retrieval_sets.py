"""Retrieval sets: how they are cut from real text, fetched, and refused."""

import functools
import http.server
import json
import lzma
import threading

import pytest

from lasttoken_export.errors import CorruptFile, InvalidOption, SourceUnavailable
from lasttoken_export.quality import debian_index
from lasttoken_export.quality.debian_index import debian_set, read_index
from lasttoken_export.quality.python_docstrings import python_set
from lasttoken_export.quality.sets import open_set

LONG = "It does this and that, on every day of the week and in every weather, whatever one may say"


def stanza(package, query, *paragraphs):
    long = "\n .\n".join(" " + "\n ".join(text.split("|")) for text in paragraphs)
    return f"Package: {package}\nDescription-md5: 00\nDescription-en: {query}\n{long}\n"


INDEX = "\n".join(
    [
        stanza("abc", "tool that draws letters", f"abc draws letters.|{LONG}.", f"Second: {LONG}."),
        stanza("abc-doc", "tool that draws letters (documentation)", f"Other text. {LONG} {LONG}."),
        stanza("libabc1", "library that draws letters", f"A library. {LONG}.", f"Second: {LONG}."),
        stanza("xyz", "program that measures the tide", f"xyz looks at the sea. {LONG}; {LONG}."),
        stanza("short", "much too short a description", "It is short."),
    ]
)


@pytest.fixture
def index(tmp_path):
    path = tmp_path / "index.xz"
    path.write_bytes(lzma.compress(INDEX.encode()))
    return path


def test_the_index_becomes_pairs_without_twins(index):
    found = read_index(index)
    pairs = dict(zip(found.queries, found.documents, strict=True))
    # Of abc, its documentation (same query) and its library (same paragraph) one stays.
    assert len(pairs) == 2
    assert pairs["program that measures the tide"] == f"xyz looks at the sea. {LONG}; {LONG}."
    if "tool that draws letters" in pairs:
        assert pairs["tool that draws letters"].splitlines() == [
            f"abc draws letters. {LONG}.", f"Second: {LONG}."
        ]  # fmt: skip
    assert "not the index that recorded figures were taken on" in found.source


def test_an_index_that_is_cut_short_is_refused(index):
    index.write_bytes(index.read_bytes()[:-20])
    with pytest.raises(CorruptFile, match="no whole package index"):
        read_index(index)
    index.write_bytes(lzma.compress(b"<html>log in first</html>"))
    with pytest.raises(CorruptFile, match="no descriptions"):
        read_index(index)


@pytest.fixture
def mirror(index, tmp_path):
    """A Debian mirror on loopback."""
    path = tmp_path / "mirror" / debian_index._INDEX
    path.parent.mkdir(parents=True)
    index.rename(path)
    handler = functools.partial(Quiet, directory=str(tmp_path / "mirror"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.mark.parametrize("with_apt", [True, False])
def test_the_index_is_fetched_once_and_kept(mirror, tmp_path, monkeypatch, with_apt):
    if not with_apt:
        monkeypatch.setattr(debian_index.shutil, "which", lambda *arguments, **options: None)
    elif debian_index.shutil.which("apt-helper", path="/usr/lib/apt") is None:
        pytest.skip("this machine has no apt")
    cache = tmp_path / "cache"
    found = debian_set(cache, mirror=mirror)
    assert len(found.queries) == 2
    assert debian_set(cache, mirror="http://127.0.0.1:9") == found
    assert len(list((cache / "retrieval").iterdir())) == 1


@pytest.mark.parametrize("with_apt", [True, False])
def test_without_a_network_the_error_says_what_to_do(tmp_path, monkeypatch, with_apt):
    if not with_apt:
        monkeypatch.setattr(debian_index.shutil, "which", lambda *arguments, **options: None)
    with pytest.raises(SourceUnavailable, match=r"could not be fetched: .*'python' needs none"):
        debian_set(tmp_path, mirror="http://127.0.0.1:9")
    assert list((tmp_path / "retrieval").iterdir()) == []


def test_the_docstrings_of_this_python_are_real_pairs():
    found = python_set()
    assert len(found.queries) == len(set(found.queries)) == len(set(found.documents)) > 500
    assert python_set() == found
    first = found.first(128)
    assert first.queries == found.queries[:128]
    assert first.sha256 != found.sha256


def test_a_python_without_sources_says_so(tmp_path):
    with pytest.raises(SourceUnavailable, match="holds no docstrings"):
        python_set(tmp_path)


def test_a_users_own_pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pairs = [{"query": f"question {i}", "document": f"answer {i}", "id": i} for i in range(3)]
    path.write_text("\n".join(map(json.dumps, pairs)) + "\n\n")
    found = open_set(str(path), pairs=2)
    assert (found.name, found.queries) == ("pairs.jsonl", ("question 0", "question 1"))
    path.write_text('{"query": "a", "document": "b"}\n{"query": "a"}\n')
    with pytest.raises(InvalidOption, match=r"pairs\.jsonl:2 is .* write \{"):
        open_set(str(path))
    path.write_text('{"query": "a", "document": "b"}\n')
    with pytest.raises(InvalidOption, match="at least two"):
        open_set(str(path))


def test_a_text_may_hold_any_character_that_is_one(tmp_path):
    path = tmp_path / "pairs.jsonl"
    pairs = [{"query": "a\u2028b\x0b", "document": f"c\x85 {i}"} for i in range(2)]
    path.write_text("\r\n".join(json.dumps(pair, ensure_ascii=False) for pair in pairs))
    found = open_set(str(path))
    assert found.queries == ("a\u2028b\x0b",) * 2
    assert found.documents == ("c\x85 0", "c\x85 1")
    path.write_text('{"query": "a", "document": "\\ud800"}\n')
    with pytest.raises(InvalidOption, match=r"pairs\.jsonl:1 is "):
        open_set(str(path))
    path.write_text("[" * 100_000)
    with pytest.raises(InvalidOption, match=r"pairs\.jsonl:1 is "):
        open_set(str(path))
    path.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8-sig")
    assert open_set(str(path)).queries == found.queries
    path.write_bytes(b'{"query": "\xff"}')
    with pytest.raises(InvalidOption, match=r"is not UTF-8 \(byte 11\)"):
        open_set(str(path))


def test_unknown_sets_and_too_few_pairs_are_refused():
    with pytest.raises(InvalidOption, match="'mteb' is neither"):
        open_set("mteb")
    with pytest.raises(InvalidOption, match="1 pairs are too few"):
        open_set("python", pairs=1)
