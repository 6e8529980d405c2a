"""Which rows go where: parts, blocks, columns, types."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lasttoken import InvalidInput
from lasttoken.corpus import CorpusOptions, embed_corpus
from lasttoken.corpus.plan import make_plan
from lasttoken.corpus.reader import BLOCK_ROWS, read_blocks
from unit.client.fake_triton import vector_of
from unit.corpus.conftest import CARD, as_array, check_output, some_rows


def test_every_row_is_there_once_in_order_with_its_vector(options, tmp_path):
    table = some_rows(2500)
    report = embed_corpus(options(table, row_group_size=7, rows_per_part=1000))
    check_output(tmp_path / "out", table)
    assert (report.parts, report.counts.rows, report.resumed_rows) == (3, 2500, 0)
    assert report.counts.tokens == sum(map(len, table["text"].to_pylist()))
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["_lasttoken.json", *(f"part-000000{n}.parquet" for n in range(3))]


def test_several_files_keep_their_order_and_parts_do_not_mix_them(options, tmp_path):
    folder = tmp_path / "texts"
    (folder / "b").mkdir(parents=True)
    (folder / "_old").mkdir()
    tables = {"a.parquet": 30, "b/c.parquet": 25, "d.parquet": 0, "e.parquet": 5}
    for name, rows in tables.items():
        pq.write_table(some_rows(rows, name), folder / name)
    pq.write_table(some_rows(9), folder / "_old" / "x.parquet")
    (folder / "notes.txt").write_text("no table")
    embed_corpus(options(inputs=(str(folder),), rows_per_part=20))
    whole = pa.concat_tables([some_rows(rows, name) for name, rows in tables.items()])
    check_output(tmp_path / "out", whole)
    parts = sorted((tmp_path / "out").glob("part-*"))
    assert [pq.read_metadata(part).num_rows for part in parts] == [20, 10, 20, 5, 5]


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    files=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    row_group=st.integers(1, 50),
    part_rows=st.integers(1, 60),
    skipped=st.sets(st.integers(0, 20)),
)
def test_blocks_hold_the_rows_of_the_parts_asked_for(
    tmp_path, files, row_group, part_rows, skipped
):
    paths = tuple(str(tmp_path / f"{number}.parquet") for number in range(len(files)))
    for path, rows in zip(paths, files, strict=True):
        pq.write_table(some_rows(rows, path), path, row_group_size=row_group)
    options = CorpusOptions(inputs=paths, output="nowhere", model="m")
    plan = make_plan(options, part_rows=part_rows)
    assert sum(part.rows for part in plan.parts) == sum(files)
    wanted = [part for part in plan.parts if part.number not in skipped]
    read: dict[int, list[pa.RecordBatch]] = {}
    for block in read_blocks(plan, wanted, paths):
        assert 0 < block.rows.num_rows <= BLOCK_ROWS
        so_far = sum(batch.num_rows for batch in read.setdefault(block.part.number, []))
        assert block.first_row == block.part.start + so_far
        read[block.part.number].append(block.rows)
    assert list(read) == [part.number for part in wanted]
    for part in wanted:
        table = some_rows(files[part.source], paths[part.source]).slice(part.start, part.rows)
        assert pa.Table.from_batches(read[part.number]).equals(table)


def test_null_texts_have_null_vectors_and_are_not_sent(options, tmp_path, fake):
    texts = ["one", None, "", None, "two"]
    table = pa.table({"text": texts})
    report = embed_corpus(options(table))
    check_output(tmp_path / "out", table)
    assert (report.counts.rows, report.counts.nulls) == (5, 2)
    sent = [text for call in fake.calls for text in call.texts]
    assert sorted(sent) == sorted([b"a", b"one", b"", b"two"])  # "a" tries the prompt


@pytest.mark.parametrize(
    "kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string())], ids=str
)
def test_other_types_of_strings(options, tmp_path, kind):
    table = pa.table({"text": pa.array(["x", None, "y", "x"]).cast(kind)})
    embed_corpus(options(table))
    check_output(tmp_path / "out", table)


def test_chosen_columns_names_and_float16(options, tmp_path):
    table = some_rows(50)
    embed_corpus(options(table, columns=("id",), vector_column="v", vector_dtype="float16"))
    result = pq.read_table(tmp_path / "out")
    assert result.schema.names == ["id", "v"]
    assert str(result.schema.field("v").type) == "fixed_size_list<element: halffloat not null>[8]"
    half = np.array(result["v"].to_pylist(), np.float16)
    embed_corpus(options(output=str(tmp_path / "full")))
    full = as_array(pq.read_table(tmp_path / "full")["embedding"])
    assert np.array_equal(half, full.astype(np.float16))


def test_the_schema_says_how_the_vectors_were_made(options, tmp_path, fake):
    embed_corpus(options(some_rows(3), instruction="find"))
    described = pq.read_schema(tmp_path / "out" / "part-0000000.parquet").metadata
    text = {k.decode().removeprefix("lasttoken."): v.decode() for k, v in described.items()}
    assert text["model"] == "toy_embedder"
    assert (text["revision"], text["precision"], text["instruction"]) == ("r1", "fp32", "find")
    assert "prompt_name" not in text
    assert text["dimensions"] == "8"
    assert {"version", "run", "digest", "vector_column"} <= set(text)
    assert all(call.inputs["INSTRUCTION"] == [b"find"] * len(call.texts) for call in fake.calls)
    assert all(call.parameters["service_class"] == "bulk" for call in fake.calls[1:])
    manifest = json.loads((tmp_path / "out" / "_lasttoken.json").read_text())
    assert manifest["run"] == text["run"]


def test_truncated_texts_are_counted(options):
    table = pa.table({"text": ["short", "TOO LONG", "TOO LONG too"]})
    assert embed_corpus(options(table)).counts.truncated == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"text_column": "nope"}, "no one column 'nope'"),
        ({"text_column": "id"}, "must hold strings"),
        ({"columns": ("id", "nope")}, "no one column 'nope'"),
        ({"vector_column": "tags"}, "already"),
        ({"inputs": ("/nowhere/at/all",)}, "no Parquet file at '/nowhere/at/all'"),
        ({"inputs": ("nope://x",)}, "nope"),
        ({"output": "s3x://y"}, "s3x"),
    ],
)
def test_wrong_inputs_are_refused_before_anything_is_written(options, tmp_path, changes, message):
    with pytest.raises(InvalidInput, match=message):
        embed_corpus(options(some_rows(3)) if not changes else _changed(options, changes))
    assert not (tmp_path / "out").exists()


def _changed(options, changes):
    settings_of_first = options(some_rows(3))
    return options(**{"inputs": settings_of_first.inputs, **changes})


def test_files_of_different_schemas_are_refused(options, tmp_path):
    pq.write_table(some_rows(3), tmp_path / "a.parquet")
    pq.write_table(some_rows(3).drop_columns(["id"]), tmp_path / "b.parquet")
    inputs = (str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet"))
    with pytest.raises(InvalidInput, match="other columns"):
        embed_corpus(options(inputs=inputs))
    embed_corpus(options(inputs=inputs, columns=("tags",)))


def test_a_file_that_is_no_parquet_is_named(options, tmp_path):
    (tmp_path / "in.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(InvalidInput, match=r"in\.parquet cannot be read as Parquet"):
        embed_corpus(options())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"inputs": ()}, "inputs"),
        ({"urls": "127.0.0.1"}, "urls"),
        ({"vector_dtype": "int3"}, "vector_dtype"),
        ({"rows_per_part": 0}, "rows_per_part"),
        ({"dimensions": 0}, "dimensions"),
        ({"max_in_flight": True}, "max_in_flight"),
        ({"server_wait_s": float("nan")}, "server_wait_s"),
        ({"prompt_name": "a", "instruction": "b"}, "not both"),
        ({"on_refused": "shrug"}, "on_refused"),
    ],
)
def test_options_are_checked(changes, message):
    with pytest.raises(InvalidInput, match=message):
        CorpusOptions(**{"inputs": ("a",), "output": "b", "model": "m", **changes})


def test_vectors_are_cut_to_a_size_that_the_model_was_trained_for(options, fake, tmp_path):
    with pytest.raises(InvalidInput, match="not trained for shorter vectors"):
        embed_corpus(options(some_rows(3), dimensions=2))
    fake.card = json.dumps({**CARD, "matryoshka": {"minimum": 2}})
    embed_corpus(options(some_rows(3), dimensions=2))
    written = pq.read_table(tmp_path / "out")
    assert written.schema.field("embedding").type.list_size == 2
    assert written.schema.metadata[b"lasttoken.dimensions"] == b"2"
    for text, short in zip(written["text"].to_pylist(), written["embedding"], strict=True):
        kept = vector_of(text)[:2]
        np.testing.assert_allclose(short.as_py(), kept / np.linalg.norm(kept), rtol=1e-6)
    with pytest.raises(InvalidInput, match="dimensions was 2, is 3"):
        embed_corpus(options(dimensions=3, resume=True))


def test_any_size_by_force(options, tmp_path):
    embed_corpus(options(some_rows(3), dimensions=2, force_dimensions=True))
    schema = pq.read_schema(tmp_path / "out/part-0000000.parquet")
    assert schema.field("embedding").type.list_size == 2


def test_pandas_is_not_loaded_where_it_is_installed(options, fake):
    """It takes seconds and 60 MB of every worker, and pyarrow loads it for an array of numpy's."""
    settings = options(some_rows(3))
    program = f"""
        import sys
        from lasttoken.corpus import CorpusOptions, embed_corpus
        embed_corpus(CorpusOptions(inputs={settings.inputs!r}, output={settings.output!r},
                                   model={settings.model!r}, urls={settings.urls!r}))
        print([name for name in sys.modules if name == "pandas"])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
