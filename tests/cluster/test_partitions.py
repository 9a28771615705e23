"""Sources in partitions: cut alike every time, written whole or not at all, never twice."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flexdetr.cli import main
from flexdetr.cluster import partitions as cluster
from flexdetr.cluster.buckets import BucketError, is_bucket
from flexdetr.cluster.partitions import Partition, PartitionError, begin, plan, tell, write

pq = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")


@pytest.fixture(scope="module")
def detector(artifact):
    from flexdetr.deployed import ArtifactDetector

    return ArtifactDetector(artifact, threads=1)


def rows(out):
    return [row for file in sorted(out.glob("part-*.parquet")) for row in pq.read_table(file).to_pylist()]


def alike(row):
    """A row's numbers: threads add up in another order than one does."""
    objects = [number for one in row["objects"] for number in (one["label"], one["score"], *one["box_xyxy"])]
    return [row["height"], row["width"], *objects]


def test_partitions_hold_every_picture_once_and_in_order(pictures):
    found = plan([str(pictures)], 4)
    assert [len(one.names) for one in found] == [4, 4, 3]
    assert [name for one in found for name in one.names] == sorted(map(str, pictures.iterdir()))
    assert plan([str(pictures)], 4) == found


def test_rows_are_those_of_one_process(artifact, pictures, detector, tmp_path):
    for one in plan([str(pictures), "gone.png"], 4):
        counted = write(detector, one, tmp_path / "parts", 0.0)
        assert counted == tell(one.file(tmp_path / "parts"))
    arguments = ["predict", str(artifact), str(pictures), "gone.png", "--out", str(tmp_path / "one")]
    assert main([*arguments, "--threshold", "0", "--format", "parquet", "--draw", "none"]) == 1
    expected = {
        row["file"]: row for row in pq.read_table(tmp_path / "one" / "detections.parquet").to_pylist()
    }
    found = {row["file"]: row for row in rows(tmp_path / "parts")}
    assert found.keys() == expected.keys()
    for name, row in found.items():
        assert (row["error"] is None) == (expected[name]["error"] is None)
        if row["error"] is None:
            assert alike(row) == pytest.approx(alike(expected[name]), abs=0.01)
            assert [one["name"] for one in row["objects"]] == [
                one["name"] for one in expected[name]["objects"]
            ]


@pytest.mark.parametrize("form", ["plain", "hugging face"])
def test_pictures_that_are_bytes_in_parquet_give_the_same_objects(pictures, detector, tmp_path, form):
    import pyarrow as pa

    files = sorted(pictures.iterdir())
    contents = [file.read_bytes() for file in files]
    if form == "plain":
        table = pa.table({"file": [str(file) for file in files], "bytes": contents})
    else:
        stored = [{"bytes": one, "path": str(file)} for one, file in zip(contents, files, strict=True)]
        table = pa.table({"image": stored})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=3)
    cut = plan([str(tmp_path / "in.parquet")], 4)
    assert [(one.first, one.stop) for one in cut] == [(0, 4), (4, 8), (8, 11)]
    for one in cut:
        write(detector, one, tmp_path / "bytes", 0.0)
    for one in plan([str(pictures)], 4):
        write(detector, one, tmp_path / "files", 0.0)
    expected = {row["file"]: row["objects"] for row in rows(tmp_path / "files")}
    assert {row["file"]: row["objects"] for row in rows(tmp_path / "bytes")} == expected


def test_pictures_at_an_address_of_fsspec(pictures, detector, tmp_path):
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    (one,) = plan([pictures.as_uri()])
    assert one.kind == "in_buckets"
    counted = write(detector, one, tmp_path, 0.0)
    assert (counted["pictures"], counted["failed"]) == (10, 1)


def test_what_is_complete_is_not_begun_again(pictures, tmp_path):
    cut = plan([str(pictures)], 4)
    assert begin(tmp_path / "out", cut, "seal", 0.4) == cut
    cut[1].file(tmp_path / "out").touch()
    assert begin(tmp_path / "out", cut, "seal", 0.4) == [cut[0], cut[2]]


@pytest.mark.parametrize(
    ("seal", "threshold", "size"), [("other", 0.4, 4), ("seal", 0.5, 4), ("seal", 0.4, 5)]
)
def test_a_folder_of_something_else_is_refused(pictures, tmp_path, seal, threshold, size):
    begin(tmp_path / "out", plan([str(pictures)], 4), "seal", 0.4)
    with pytest.raises(PartitionError, match="choose another --out"):
        begin(tmp_path / "out", plan([str(pictures)], size), seal, threshold)


def test_a_partition_that_ends_early_leaves_no_file(pictures, detector, tmp_path, monkeypatch):
    def broken(*_):
        yield {"file": "a", "size": [1, 1], "objects": []}
        raise RuntimeError("the machine is gone")

    monkeypatch.setattr(cluster, "_found", broken)
    with pytest.raises(RuntimeError, match="gone"):
        write(detector, plan([str(pictures)])[0], tmp_path / "out", 0.4)
    assert not [*(tmp_path / "out").iterdir()]


@pytest.mark.parametrize(
    ("source", "said"),
    [("0", "streams, cameras"), ("https://example.invalid/a.jpg", "http addresses")],
)
def test_what_partitions_do_not_hold_is_refused(source, said):
    with pytest.raises(PartitionError, match=said):
        plan([source])


def test_parquet_without_pictures_is_refused(tmp_path):
    import pyarrow as pa

    pq.write_table(pa.table({"number": [1]}), tmp_path / "a.parquet")
    with pytest.raises(PartitionError, match="no column of pictures as bytes"):
        plan([str(tmp_path / "a.parquet")])
    (tmp_path / "b.parquet").write_bytes(b"nothing")
    with pytest.raises(PartitionError, match="cannot be read as Parquet"):
        plan([str(tmp_path / "b.parquet")])


def test_addresses_that_lead_nowhere(tmp_path):
    pytest.importorskip("fsspec", reason="fsspec is not installed")
    with pytest.raises(BucketError, match="there is no picture"):
        plan([(tmp_path / "gone").as_uri()])
    with pytest.raises(BucketError, match="nowhere"):
        plan(["nowhere://bucket/pictures"])
    assert not is_bucket("https://a/b.jpg")
    assert not is_bucket("C:\\pictures")


def test_a_partition_survives_json():
    one = Partition(3, "paths", ("a", "gr\udcfc.jpg"))
    content = json.loads(json.dumps(vars(one)))
    assert Partition(**{**content, "names": tuple(content["names"])}) == one
    assert one.file(Path("out")).name == "part-000003.parquet"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--actors", "2"], "--actors is for --engine ray"),
        (["--ray-address", "auto"], "--ray-address is for --engine ray"),
        (["--engine", "rai"], "did you mean 'ray'"),
        (["--engine", "ray", "--format", "yolo"], "--engine ray takes no --format"),
        (["--engine", "ray", "--device", "gpu", "--explain"], "takes no --device and no --explain"),
    ],
)
def test_options_that_do_not_go_together(options, said, tmp_path, capsys):
    assert (
        main(["predict", "model.safetensors", str(tmp_path), "--out", str(tmp_path / "out"), *options]) == 2
    )
    assert said in capsys.readouterr().err


def test_a_checkpoint_has_to_be_exported_first(tmp_path, capsys):
    (tmp_path / "a.safetensors").touch()
    arguments = ["predict", str(tmp_path / "a.safetensors"), str(tmp_path), "--engine", "ray"]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 2
    assert "flexdetr export" in capsys.readouterr().err
