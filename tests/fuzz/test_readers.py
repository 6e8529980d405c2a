"""Damaged and hostile files: the project's own error in bounded time and memory, or a model."""

import json
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import good_files
from fuzz.bounds import bounded, fuzzed
from fuzz.damage import damaged_bytes, damaged_value


@pytest.fixture(scope="module")
def gguf_files(tmp_path_factory):
    return good_files.gguf_files(tmp_path_factory.mktemp("gguf"))


@fuzzed(300)
@given(data=st.data())
def test_a_damaged_gguf_file(readers, gguf_files, data):
    base = gguf_files[data.draw(st.integers(0, len(gguf_files) - 1))]
    content = data.draw(damaged_bytes(base))
    with bounded():
        readers.gguf(content)


def test_the_good_files_are_good(readers, gguf_files, tmp_path):
    for content in gguf_files:
        with bounded():
            assert not (readers.gguf(content) or "").count("download it again")
    for name, value in good_files.json_values().items():
        if name not in ("safetensors-index", "config", "modules", "card-of-a-repository"):
            assert readers.by_name()[name](json.dumps(value).encode()) in (None, value), name
    for entry in good_files.catalogue_entries():
        assert readers.catalogue_entry(json.dumps(entry).encode()) is None
    assert readers.safetensors(good_files.safetensors_file(tmp_path)) is None
    assert '"unk_token"' in readers.sentencepiece(good_files.sentencepiece_file())
    assert readers.config_pbtxt(good_files.config_pbtxt()) is None


# What each hostile size would cost a reader that believes it: for ever, or all of the memory.
@pytest.mark.parametrize("size", [2**24, 2**31, 2**40, 2**62, 2**64 - 1])
@pytest.mark.parametrize(
    "head",
    [
        lambda size: struct.pack("<QQ", 0, size),  # values
        lambda size: struct.pack("<QQ", size, 0),  # tensors
        lambda size: struct.pack("<QQQ", 0, 1, size),  # bytes of a key
        lambda size: value(8, struct.pack("<Q", size)),  # bytes of a string
        lambda size: value(9, struct.pack("<IQ", 0, size)),  # an array of bytes
        lambda size: value(9, struct.pack("<IQ", 8, size)),  # an array of strings
        lambda size: value(9, struct.pack("<IQ", 9, size)),  # an array of arrays
        lambda size: struct.pack("<QQQ4sI", 1, 0, 4, b"norm", 1) + struct.pack("<QIQ", size, 0, 0),
        lambda size: struct.pack("<QQQ4sI", 1, 0, 4, b"norm", size % 2**32),  # dimensions
        lambda size: struct.pack("<QQQ4sI", 1, 0, 4, b"norm", 1) + struct.pack("<QIQ", 1, 0, size),
    ],
    ids=["values", "tensors", "key", "string", "bytes", "strings", "arrays", "rows", "dimensions",
         "offset"],
)  # fmt: skip
def test_a_hostile_size_in_a_gguf_file(readers, head, size):
    with bounded():
        said = readers.gguf(b"GGUF" + struct.pack("<I", 3) + head(size) + bytes(200))
    assert "download it again" in said


def value(kind, content):
    return struct.pack("<QQQ1sI", 0, 1, 1, b"k", kind) + content


@pytest.fixture(scope="module")
def safetensors_file(tmp_path_factory):
    return good_files.safetensors_file(tmp_path_factory.mktemp("safetensors"))


@fuzzed(300)
@given(data=st.data())
def test_a_damaged_safetensors_file(readers, safetensors_file, data):
    content = data.draw(damaged_bytes(safetensors_file))
    with bounded():
        readers.safetensors(content)


@fuzzed(200)
@given(data=st.data())
def test_a_safetensors_header_that_lies(readers, safetensors_file, data):
    length = struct.unpack("<Q", safetensors_file[:8])[0]
    header = data.draw(damaged_value(json.loads(safetensors_file[8 : 8 + length])))
    text = json.dumps(header).encode()
    with bounded():
        readers.safetensors(struct.pack("<Q", len(text)) + text + safetensors_file[8 + length :])


@fuzzed(100)
@given(content=damaged_bytes(good_files.sentencepiece_file()))
def test_a_damaged_sentencepiece_file(readers, content):
    with bounded():
        readers.sentencepiece(content)


def test_a_piece_that_is_not_utf8(readers):
    content = good_files.sentencepiece_file().replace(b"<unk>", b"<un\xff>")
    assert "not UTF-8" in readers.sentencepiece(content)


JSON_READERS = ("safetensors-index", "config", "contract", "tokenizer-json", "card-of-a-server",
                "card-of-an-export", "card-of-a-repository")  # fmt: skip


@pytest.mark.parametrize("name", JSON_READERS)
def test_json_of_another_shape(readers, name):
    base = good_files.json_values()[name]
    read = readers.by_name()[name]

    @fuzzed(100)
    @given(changed=damaged_value(base))
    def check(changed):
        with bounded():
            read(json.dumps(changed).encode())

    check()


@pytest.mark.parametrize("name", JSON_READERS)
def test_a_damaged_json_file(readers, name):
    base = json.dumps(good_files.json_values()[name]).encode()
    read = readers.by_name()[name]

    @fuzzed(40)
    @given(content=damaged_bytes(base))
    def check(content):
        with bounded():
            read(content)

    check()


FOREIGN = (b"", b"[" * 200_000, b'{"a":' * 200_000, b"1" * 5000, b"\xff\xfe", b"null", b"{" * 9999)


@pytest.mark.parametrize("name", [*JSON_READERS, "config-pbtxt"])
@pytest.mark.parametrize("content", FOREIGN, ids=range(len(FOREIGN)))
def test_deep_empty_and_foreign_files(readers, name, content):
    with bounded():
        said = readers.by_name()[name](content)
    assert said or name == "card-of-a-server" or (name, content) == ("config-pbtxt", b"")


@fuzzed(100)
@given(data=st.data())
def test_sentence_transformers_files_of_another_shape(whole_folder_readers, data):
    files = good_files.json_values()["modules"]
    changed = {
        name: data.draw(damaged_value(value)) if data.draw(st.booleans()) else value
        for name, value in files.items()
    }
    with bounded():
        whole_folder_readers.modules(json.dumps(changed).encode())


def test_the_good_sentence_transformers_files_are_good(whole_folder_readers):
    files = good_files.json_values()["modules"]
    assert "pools the last token" in whole_folder_readers.modules(json.dumps(files).encode())
    files["1_Pooling/config.json"] = {"pooling_mode": "mean"}
    assert whole_folder_readers.modules(json.dumps(files).encode()) is None


@pytest.mark.parametrize("path", ["../elsewhere", "/etc", "1_Pooling/../../x", "a\0b"])
def test_a_module_outside_its_folder_is_refused(whole_folder_readers, path):
    files = good_files.json_values()["modules"]
    files["modules.json"][1]["path"] = path
    said = whole_folder_readers.modules(json.dumps(files).encode())
    assert "outside its folder" in said


@fuzzed(200)
@given(data=st.data())
def test_catalogue_entries_of_another_shape(readers, data):
    entries = good_files.catalogue_entries()
    changed = data.draw(damaged_value(data.draw(st.sampled_from(entries))))
    with bounded():
        readers.catalogue_entry(json.dumps(changed).encode())


@fuzzed(100)
@given(content=damaged_bytes(good_files.config_pbtxt()))
def test_a_damaged_config_pbtxt(readers, content):
    with bounded():
        readers.config_pbtxt(content)
