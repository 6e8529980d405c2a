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
