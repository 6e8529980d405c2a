"""Corpora that are not on a disk of this machine: a real S3 API, and a file system of fsspec's."""

from __future__ import annotations

import fsspec
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from lasttoken import InvalidInput
from lasttoken.corpus import embed_corpus
from lasttoken.corpus.places import parquet_files, place_of
from unit.corpus.conftest import check_output, some_rows


@pytest.fixture(scope="module")
def s3():
    """Query string of URLs in a bucket `corpora` of a real HTTP server that speaks S3."""
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        query = f"?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
        filesystem, _ = pafs.FileSystem.from_uri(f"s3://corpora{query}&allow_bucket_creation=true")
        filesystem.create_dir("corpora")
        yield query
        server.stop()


def test_s3_in_s3_out_and_resume(options, s3):
    table = some_rows(500)
    place = place_of(f"s3://corpora/in/texts.parquet{s3}")
    pq.write_table(table, place.path, filesystem=place.filesystem)
    settings = {
        "inputs": (f"s3://corpora/in{s3}",),
        "output": f"s3://corpora/out/vectors{s3}",
        "rows_per_part": 100,
    }
    embed_corpus(options(**settings))
    output = place_of(settings["output"])
    files = parquet_files(output)
    assert [file.rpartition("/")[2] for file in files] == [
        f"part-000000{n}.parquet" for n in range(5)
    ]
    output.filesystem.delete_file(files[2])
    with output.filesystem.open_output_stream(output.inside("_tmp-part-left")) as stream:
        stream.write(b"x")
    with pytest.raises(InvalidInput, match="--resume"):
        embed_corpus(options(**settings))
    report = embed_corpus(options(resume=True, **settings))
    assert report.resumed_parts == 4
    result = pq.read_table(files, filesystem=output.filesystem)
    assert result.drop_columns(["embedding"]).equals(table)
    names = [i.base_name for i in output.filesystem.get_file_info(pafs.FileSelector(output.path))]
    assert not [name for name in names if name.startswith("_tmp-")]


def test_a_file_system_of_fsspec(options, tmp_path):
    table = some_rows(300)
    with fsspec.open("memory://corpora/in/a.parquet", "wb") as file:
        pq.write_table(table, file)
    settings = {
        "inputs": ("memory://corpora/in",),
        "output": "memory://corpora/out",
        "rows_per_part": 100,
    }
    embed_corpus(options(**settings))
    memory = fsspec.filesystem("memory")
    memory.rm("/corpora/out/part-0000001.parquet")
    assert embed_corpus(options(resume=True, **settings)).resumed_parts == 2
    memory.get("/corpora/out/", str(tmp_path / "copy"), recursive=True)
    check_output(tmp_path / "copy", table)


def test_local_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/somebody")
    assert place_of("texts").path == str(tmp_path / "texts")
    assert place_of("~/texts").path == "/home/somebody/texts"
    assert place_of(f"file://{tmp_path}/a%20b").path == f"{tmp_path}/a b"
    assert place_of("texts").is_local
    assert not place_of("memory://texts").is_local


def test_an_output_that_resume_would_take_for_an_input_is_refused(options, tmp_path):
    folder = tmp_path / "corpus"
    (folder / "_vectors").mkdir(parents=True)
    table = some_rows(5)
    pq.write_table(table, folder / "in.parquet")
    inputs = (str(folder),)
    for output in (folder, folder / "vectors", folder / "deep" / "vectors"):
        with pytest.raises(InvalidInput, match="lies where the input"):
            embed_corpus(options(inputs=inputs, output=str(output)))
    assert sorted(path.name for path in folder.iterdir()) == ["_vectors", "in.parquet"]
    # Names that begin with _ are not read, so this one is no input; nor is a folder beside it.
    for output in (folder / "_vectors", tmp_path / "corpus-vectors"):
        embed_corpus(options(inputs=inputs, output=str(output)))
        assert embed_corpus(options(inputs=inputs, output=str(output), resume=True)).parts == 1
        check_output(output, table)


def test_a_pattern_stands_for_files_of_its_folder_in_order_of_their_names(options, tmp_path):
    folder = tmp_path / "in"
    (folder / "below").mkdir(parents=True)
    table = some_rows(30)
    for name, start in (("b-2", 10), ("b-10", 0), ("c", 20)):
        pq.write_table(table.slice(start, 10), folder / f"{name}.parquet")
    for other in ("below/b-3.parquet", "_b-1.parquet", ".b-1.parquet", "b-2.txt"):
        (folder / other).write_text("no Parquet")
    embed_corpus(options(inputs=(f"{folder}/b-*.parquet", f"{folder}/[c-d].parquet")))
    check_output(tmp_path / "out", table)
    assert parquet_files(place_of(f"{folder}/b-?.parquet")) == [f"{folder}/b-2.parquet"]
    (folder / "b-[1].parquet").write_bytes((folder / "c.parquet").read_bytes())
    assert parquet_files(place_of(f"{folder}/b-[1].parquet")) == [f"{folder}/b-[1].parquet"]
    for nothing in (f"{folder}/d-*.parquet", f"{folder}/*/b-3.parquet", f"{tmp_path}/none/*"):
        with pytest.raises(InvalidInput, match="no Parquet file at"):
            parquet_files(place_of(nothing))
    for output in (folder, f"{folder}/"):
        with pytest.raises(InvalidInput, match="--resume would take its parts"):
            embed_corpus(options(inputs=(f"{folder}/b-*.parquet",), output=str(output)))


def test_a_pattern_in_other_file_systems(s3):
    for url in (f"s3://corpora/glob/%s{s3}", "memory://glob/%s"):
        for name in ("b.parquet", "a.parquet", "_c.parquet"):
            place = place_of(url % name)
            with place.filesystem.open_output_stream(place.path) as stream:
                stream.write(b"x")
        found = parquet_files(place_of(url % "*.parquet"))
        assert [path.rpartition("/")[2] for path in found] == ["a.parquet", "b.parquet"]


@pytest.mark.parametrize("resume", [False, True])
def test_an_output_that_is_a_file_is_refused(options, tmp_path, resume):
    (tmp_path / "out").write_text("mine")
    with pytest.raises(InvalidInput, match="is a file; choose a folder"):
        embed_corpus(options(some_rows(5), resume=resume))
    assert (tmp_path / "out").read_text() == "mine"
