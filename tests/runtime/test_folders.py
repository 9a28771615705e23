"""Folders: hidden files are passed over, links followed, and no arrangement of links makes a walk endless."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flexdetr.runtime.folders import IMAGE_SUFFIXES, is_hidden, list_files


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")


def below(root: Path, listed: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in listed]


def test_files_come_in_the_order_of_their_parts(tmp_path):
    touch(*(tmp_path / name for name in ("b.jpg", "a/z.jpg", "a/b/c.jpg", "a-b.jpg", "Z.jpg")))
    assert list_files(tmp_path).files == sorted(list_files(tmp_path).files)
    assert below(tmp_path, list_files(tmp_path).files) == [
        "Z.jpg",
        "a/b/c.jpg",
        "a/z.jpg",
        "a-b.jpg",
        "b.jpg",
    ]


def test_hidden_and_system_names_are_passed_over(tmp_path):
    mine = [tmp_path / name for name in ("a.jpg", "below/b.jpg")]
    theirs = [".hidden.jpg", "._a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "__MACOSX/below/._b.jpg"]
    theirs += ["below/Thumbs.db", "below/@eaDir/b.jpg", "$RECYCLE.BIN/old.jpg", "desktop.ini"]
    touch(*mine, *(tmp_path / name for name in theirs))
    listing = list_files(tmp_path)
    assert listing.files == mine
    assert {path.relative_to(tmp_path).parts[0] for path in listing.passed_over} == {
        *("$RECYCLE.BIN", ".hidden.jpg", "._a.jpg", ".ipynb_checkpoints", "__MACOSX", "below", "desktop.ini")
    }


def test_a_hidden_folder_that_was_named_is_read(tmp_path):
    touch(tmp_path / ".cache" / "a.jpg")
    assert below(tmp_path, list_files(tmp_path / ".cache").files) == [".cache/a.jpg"]
    assert is_hidden(".cache")


def test_linked_files_and_folders_are_read_where_the_link_is(tmp_path):
    touch(tmp_path / "store" / "cam9" / "a.jpg", tmp_path / "store" / "one.jpg")
    root = tmp_path / "data"
    root.mkdir()
    (root / "cam9").symlink_to(Path("..", "store", "cam9"))
    (root / "single.jpg").symlink_to(tmp_path / "store" / "one.jpg")
    assert below(root, list_files(root).files) == ["cam9/a.jpg", "single.jpg"]


def test_a_folder_that_two_links_lead_to_is_read_under_both(tmp_path):
    touch(tmp_path / "store" / "a.jpg")
    for split in ("train", "val"):
        (tmp_path / "data" / split).mkdir(parents=True)
        (tmp_path / "data" / split / "cam").symlink_to(tmp_path / "store")
    assert below(tmp_path / "data", list_files(tmp_path / "data").files) == [
        "train/cam/a.jpg",
        "val/cam/a.jpg",
    ]


def test_links_in_a_circle(tmp_path):
    touch(tmp_path / "a" / "one.jpg", tmp_path / "b" / "two.jpg")
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "a").symlink_to(tmp_path / "a")
    (tmp_path / "b" / "self").symlink_to("self")
    listing = list_files(tmp_path)
    assert {path.resolve() for path in listing.files} == {
        (tmp_path / name).resolve() for name in ("a/one.jpg", "b/two.jpg")
    }
    assert "a link that leads nowhere" in dict(listing.unread).values()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(links=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 7)), max_size=64))
def test_the_work_is_bounded_however_links_lie(links, tmp_path_factory):
    root = tmp_path_factory.mktemp("links")
    for number in range(8):
        touch(root / str(number) / f"{number}.jpg")
    for start, end in set(links):
        (root / str(start) / f"to{end}").symlink_to(root / str(end))
    listing = list_files(root)
    assert {path.name for path in listing.files} == {f"{number}.jpg" for number in range(8)}
    assert len(listing.files) <= 8 * (1 + len(set(links)))


def test_what_leads_nowhere_or_cannot_be_opened_is_named(tmp_path):
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it would wait for a writer
    listing = list_files(tmp_path)
    assert listing.files == []
    assert listing.unread == [(tmp_path / "gone.jpg", "a link that leads nowhere")]
    ((path, reason),) = list_files(tmp_path / "missing").unread
    assert path == tmp_path / "missing"
    assert "No such file" in reason


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may open every folder")
def test_a_folder_that_may_not_be_read_is_named(tmp_path):
    touch(tmp_path / "mine" / "a.jpg", tmp_path / "theirs" / "b.jpg")
    (tmp_path / "theirs").chmod(0)
    try:
        listing = list_files(tmp_path)
    finally:
        (tmp_path / "theirs").chmod(0o700)
    assert below(tmp_path, listing.files) == ["mine/a.jpg"]
    assert listing.unread == [(tmp_path / "theirs", "Permission denied")]


def test_folders_that_the_caller_leaves_out(tmp_path):
    touch(tmp_path / "a.jpg", tmp_path / "runs" / "predict" / "a.jpg")
    listing = list_files(tmp_path, leave_out=lambda folder: folder.name == "predict")
    assert below(tmp_path, listing.files) == ["a.jpg"]
    assert listing.passed_over == [tmp_path / "runs" / "predict"]


def test_suffixes_are_lower_case():
    assert all(suffix == suffix.lower() and suffix.startswith(".") for suffix in IMAGE_SUFFIXES)
