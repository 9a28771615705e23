"""Sources: everything a person may name is found once, and what cannot be read does not stop the rest."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from flexdetr.data.images import pixels as real_pixels
from flexdetr.runtime import sources
from flexdetr.runtime.folders import IMAGE_SUFFIXES
from flexdetr.runtime.sources import Camera, Picture, Unreadable, find, read


@pytest.fixture
def folder(tmp_path):
    """A folder with pictures in two levels, one broken, and files that are none."""
    (tmp_path / "below" / "deeper").mkdir(parents=True)
    for number, name in enumerate(("b.png", "a.JPG", "below/c.webp", "below/deeper/d.bmp")):
        Image.new("RGB", (4 + number, 3), (number, 0, 0)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8 not much of an image")
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def pixels(content) -> np.ndarray:
    """What the API passes in: any content as an RGB array."""
    if isinstance(content, np.ndarray):
        return content
    image = content if isinstance(content, Image.Image) else Image.open(content)
    return np.asarray(image.convert("RGB"))


def names(found) -> list[str]:
    return [Path(item.name).name for item in found]


def test_a_folder_gives_all_pictures_below_it(folder):
    assert names(find(folder)) == ["a.JPG", "b.png", "c.webp", "d.bmp", "broken.jpg"]
    assert find(str(folder)) == find([folder])


def test_files_globs_and_folders_mix_and_count_once(folder):
    found = find([folder / "b.png", f"{folder}/*.png", f"{folder}/**/*.bmp", str(folder / "below")])
    assert names(found) == ["b.png", "d.bmp", "c.webp"]


def test_a_file_with_glob_characters_in_its_name(tmp_path):
    Image.new("RGB", (2, 2)).save(tmp_path / "shot[1].png")
    assert names(find(tmp_path / "shot[1].png")) == ["shot[1].png"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [("nowhere.jpg", "there is no such file"), ("*.nothing", "no file matches"), ("empty", "holds no image")],
)
def test_what_leads_nowhere_is_reported(text, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (answer,) = read(find(text), pixels)
    assert isinstance(answer, Unreadable)
    assert reason in answer.reason
    assert text in answer.reason


def test_an_unreadable_file_does_not_stop_the_others(folder):
    answers = list(read(find([folder, "missing.png"]), pixels))
    good = [one for one in answers if isinstance(one, Picture)]
    bad = [one for one in answers if isinstance(one, Unreadable)]
    assert [one.image.shape for one in good] == [(3, 5, 3), (3, 4, 3), (3, 6, 3), (3, 7, 3)]
    assert [Path(one.name).name for one in bad] == ["broken.jpg", "missing.png"]
    assert all("\n" not in one.reason for one in bad)


def test_arrays_and_pillow_images(folder):
    array = np.zeros((5, 6, 3), np.uint8)
    opened = Image.open(folder / "b.png")
    answers = list(read(find([array, Image.new("L", (8, 7)), opened]), pixels))
    assert [one.image.shape for one in answers] == [(5, 6, 3), (7, 8, 3), (3, 4, 3)]
    assert [Path(one.name).name for one in answers] == ["image-0", "image-1", "b.png"]
    (alone,) = read(find(array), pixels)
    assert alone.image is array


def test_an_image_through_standard_input(folder):
    (answer,) = read(find("-", stdin=io.BytesIO((folder / "b.png").read_bytes())), pixels)
    assert answer.image.shape == (3, 4, 3)
    assert answer.name == "stdin"


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\0"])
def test_paths_through_standard_input(folder, separator):
    text = separator.join([str(folder / "b.png"), str(folder / "below"), "gone.jpg", ""])
    found = find(["-"], stdin=io.BytesIO(text.encode()))
    assert names(found) == ["b.png", "c.webp", "d.bmp", "gone.jpg"]
    assert isinstance(list(read(found, pixels))[-1], Unreadable)


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", "nothing came"), (b" \n", "nothing came"), (b"\x01\x02\x03\xff", "neither an image")],
)
def test_nonsense_through_standard_input(content, reason):
    (answer,) = read(find("-", stdin=io.BytesIO(content)), pixels)
    assert reason in answer.reason


def test_a_number_is_a_camera_unless_a_file_has_that_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find("0")[0].content == Camera(0)
    Image.new("RGB", (2, 2)).save(tmp_path / "0", format="png")
    assert find("0")[0].content == Path("0")


class Recording:
    """A stand-in for OpenCV's VideoCapture: three frames of pure blue, in its BGR order, one a tenth of a second."""

    def __init__(self, target) -> None:
        self.left = 0 if target == 9 else 3

    def get(self, asked):
        return {0: 100.0 * (2 - self.left), 5: 10.0, 7: 3.0}[asked]

    def grab(self):
        self.left -= 1
        return self.left >= 0

    def retrieve(self):
        frame = np.zeros((4, 5, 3), np.uint8)
        frame[:, :, 0] = 255
        return True, frame

    def release(self) -> None:
        self.left = 0


def test_a_video_gives_its_frames_in_rgb(tmp_path, monkeypatch):
    messages = SimpleNamespace(getLogLevel=lambda: 3, setLogLevel=lambda _level: 3, LOG_LEVEL_SILENT=0)
    utils = SimpleNamespace(logging=messages)
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(VideoCapture=Recording, utils=utils))
    video = tmp_path / "clip.mp4"
    video.write_bytes(b"")
    answers = list(read(find(tmp_path), pixels))
    assert [one.name for one in answers] == [f"{video}#{number:06d}" for number in range(3)]
    assert [(one.frame, one.seconds, one.rate) for one in answers] == [(i, i / 10, 10.0) for i in range(3)]
    assert (answers[0].image == (0, 0, 255)).all()
    (silent,) = read(find("9"), pixels)
    assert "gives no picture" in silent.reason


def test_a_camera_that_is_not_there_is_one_sentence(capfd):
    pytest.importorskip("cv2")
    (silent,) = read(find("97"), pixels)
    assert "gives no picture" in silent.reason
    assert capfd.readouterr() == ("", "")


def test_videos_without_opencv_name_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (answer,) = read(find("0"), pixels)
    assert "pip install 'flexdetr[video]'" in answer.reason


def test_reading_is_lazy(folder):
    asked = []

    def counting(content):
        asked.append(content)
        return pixels(content)

    next(read(find(folder), counting))
    assert len(asked) == 1


def test_suffixes_of_pictures_and_of_videos_differ():
    assert IMAGE_SUFFIXES.isdisjoint(sources.VIDEO_SUFFIXES)


def test_a_folder_gives_no_hidden_files_and_follows_links(folder, tmp_path_factory):
    store = tmp_path_factory.mktemp("store")
    Image.new("RGB", (2, 2)).save(store / "e.png")
    (folder / "cam9").symlink_to(store)
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "b-checkpoint.png").write_bytes((folder / "b.png").read_bytes())
    (folder / "._b.png").write_bytes(b"\0\5\x16\7 of another system")
    (folder / "loop").symlink_to(folder)
    assert names(find(folder)) == ["a.JPG", "b.png", "c.webp", "d.bmp", "broken.jpg", "e.png"]


def test_a_folder_names_links_that_lead_nowhere(folder):
    (folder / "gone").symlink_to(folder / "nowhere")
    assert find(folder)[-1].content == sources.Missing(f"{folder / 'gone'}: a link that leads nowhere")


@pytest.mark.parametrize(
    "text", ["#EXTM3U\n#EXTINF:10,\nhttp://127.0.0.1/x.ts\n", "ffconcat version 1.0\nfile x.avi\n"]
)
def test_a_playlist_is_no_film(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.mp4").write_text(text)
    (answer,) = sources.read(sources.find(str(tmp_path / "x.mp4")), lambda _: None)
    assert isinstance(answer, sources.Unreadable)
    assert "is a text, like a playlist" in answer.reason


def save_frames(path: Path, count: int, **options: object) -> None:
    """A file of several frames, each of its own grey."""
    frames = [Image.new("RGB", (20, 12), (40 * number + 20,) * 3) for number in range(count)]
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif", "a.avif", "gif-as.jpg"])
def test_every_frame_and_page_is_a_picture(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    save_frames(path, 3, **({"format": "GIF"} if name == "gif-as.jpg" else {}))
    answers = list(read(find(tmp_path), real_pixels))
    assert [one.name for one in answers] == [f"{path}#{number:06d}" for number in range(3)]
    for number, one in enumerate(answers):
        assert one.image.shape == (12, 20, 3)
        assert abs(int(one.image.mean()) - (40 * number + 20)) <= 2


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.webp", "a.tif"])
def test_one_frame_is_a_picture_of_its_own_name(name: str, tmp_path: Path) -> None:
    save_frames(tmp_path / name, 1)
    (answer,) = read(find(tmp_path), real_pixels)
    assert answer.name == str(tmp_path / name)


def test_previews_inside_a_file_are_no_pages(tmp_path: Path) -> None:
    first, second = Image.new("RGB", (40, 24), "white"), Image.new("RGB", (20, 12), "white")
    first.save(tmp_path / "a.tif", save_all=True, append_images=[second], tiffinfo={254: 1})
    with Image.open(tmp_path / "a.tif") as written:
        assert written.n_frames == 2
    first.save(tmp_path / "b.jpg", format="MPO", save_all=True, append_images=[second])
    page, preview = tmp_path / "page.tif", tmp_path / "preview.tif"
    first.save(page)
    second.save(preview, tiffinfo={254: 1})
    with Image.open(page) as one, Image.open(preview) as other:
        one.encoderinfo, other.encoderinfo = {}, {"tiffinfo": {254: 1}}
        one.save(tmp_path / "c.tif", save_all=True, append_images=[other])
    assert names(find(tmp_path))[:3] == ["a.tif", "b.jpg", "c.tif"]
    answers = list(read(find([tmp_path / "b.jpg", tmp_path / "c.tif"]), real_pixels))
    assert [one.image.shape for one in answers] == [(24, 40, 3), (24, 40, 3)]


def test_frames_through_standard_input(tmp_path: Path) -> None:
    save_frames(tmp_path / "a.gif", 2)
    answers = list(read(find("-", stdin=io.BytesIO((tmp_path / "a.gif").read_bytes())), real_pixels))
    assert [one.name for one in answers] == ["stdin#000000", "stdin#000001"]


def test_a_broken_animation_keeps_its_good_frames(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    save_frames(path, 3)
    with Image.open(path) as image:
        image.seek(2)
        offset = image.tag_v2[273][0]
    path.write_bytes(path.read_bytes()[: offset + 5] if offset > 100 else path.read_bytes())
    *good, bad = read(find(path), real_pixels)
    assert all(isinstance(one, Picture) for one in good)
    assert isinstance(bad, Unreadable)
    assert bad.reason.startswith(str(path))


def film(path: Path, codec: str) -> None:
    """A film of four frames, written by OpenCV."""
    cv2 = pytest.importorskip("cv2")
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10.0, (64, 48))
    if not writer.isOpened():
        pytest.skip(f"OpenCV cannot write {codec} here")
    for number in range(4):
        writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
    writer.release()


@pytest.mark.parametrize(("written", "codec"), [("a.avi", "MJPG"), ("a.mp4", "mp4v"), ("a.mkv", "MJPG")])
@pytest.mark.parametrize("called", [None, "a.jpg", "film"])
def test_what_is_a_film_is_decided_by_its_content(
    written: str, codec: str, called: str | None, tmp_path: Path
) -> None:
    path = tmp_path / written
    film(path, codec)
    path = path.rename(tmp_path / (called or written))
    answers = list(read(find(tmp_path), real_pixels))
    assert [one.name for one in answers] == [f"{path}#{number:06d}" for number in range(4)]


def test_a_picture_called_a_film_is_a_picture(tmp_path: Path) -> None:
    Image.new("RGB", (6, 4)).save(tmp_path / "a.mp4", format="PNG")
    (answer,) = read(find(tmp_path), real_pixels)
    assert answer.image.shape == (4, 6, 3)


def test_films_by_the_beginnings_of_their_files(shared: Path) -> None:
    folder = shared / "cases" / "25-frames"
    if not folder.is_dir():
        pytest.skip(f"no reference data: {folder} is missing")
    pytest.importorskip("cv2")
    counts: dict[str, int] = {}
    for one in read(find(folder), real_pixels):
        file, _, number = Path(one.name).name.partition("#")
        if isinstance(one, Unreadable):  # no build of FFmpeg that was tried finds the codec of this one
            assert (file, number) == ("clip.ts", "")
            assert "gives no picture" in one.reason
            continue
        assert number == f"{counts.get(file, 0):06d}"
        counts[file] = counts.get(file, 0) + 1
    assert counts.pop("clip.ts", 2) > 1
    assert set(counts) == {"anim.gif", "multi.tiff", "clip.wmv"}
    assert counts["anim.gif"] == counts["multi.tiff"] == 5
    assert counts["clip.wmv"] > 1


def test_typescript_is_no_film(tmp_path: Path) -> None:
    (tmp_path / "page.ts").write_text("export const G = 'GGG';\n" * 50)
    Image.new("RGB", (2, 2)).save(tmp_path / "a.png")
    assert names(find(tmp_path)) == ["a.png"]


def test_a_folder_for_results_is_passed_over(folder: Path) -> None:
    out = folder / "below" / "deeper"
    for source in (folder, f"{folder}/*", f"{folder}/**", f"{folder}/**/*.*"):
        found = find(source, leave_out=out)
        assert "d.bmp" not in names(found)
        assert "c.webp" in names(found)


def test_globs_take_folders_and_end_in_loops(folder: Path) -> None:
    (folder / "loop").symlink_to(folder)
    (folder / "other").symlink_to(folder / "below")
    (folder / ".hidden.png").write_bytes((folder / "b.png").read_bytes())
    assert names(find(f"{folder}/be*")) == ["c.webp", "d.bmp"]
    assert set(names(find(f"{folder}/**/*.png"))) == {"b.png"}
    assert names(find(f"{folder}/**/d.bmp")) == ["d.bmp", "d.bmp"]
    assert names(find(f"{folder}/*.png")) == ["b.png"]


@pytest.mark.skipif(sys.platform in ("darwin", "win32"), reason="file names are Unicode there")
def test_names_that_are_no_utf8(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsencode(folder) + b"/gr\xfc\xdfe.png"
    Path(os.fsdecode(odd)).write_bytes((folder / "b.png").read_bytes())
    answers = [one for one in read(find(folder), real_pixels) if isinstance(one, Picture)]
    assert os.fsdecode(odd) in [one.name for one in answers]
    (item,) = find("-", stdin=io.BytesIO(odd + b"\n"))
    assert isinstance(next(read([item], real_pixels)), Picture)


def test_the_same_file_by_two_names_counts_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert names(find(["b.png", str(folder / "b.png"), "./b.png"])) == ["b.png"]
