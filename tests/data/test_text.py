from __future__ import annotations

import pytest

from flexdetr.data.text import TextError, read_text

TEXT = "<a>Zürich 東京</a>"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
def test_every_unicode_encoding_with_and_without_mark(tmp_path, encoding):
    path = tmp_path / "text"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path) == TEXT


def test_xml_may_state_another_encoding(tmp_path):
    path = tmp_path / "text.xml"
    text = '<?xml version="1.0" encoding="ISO-8859-1"?><a>Zürich</a>'
    path.write_bytes(text.encode("latin-1"))
    assert read_text(path) == text


def test_utf16_json_of_the_shared_set(shared_data):
    for path in (shared_data / "awkward" / "json_utf16").glob("*.json"):
        assert read_text(path).startswith('[{"Id":0,')


def test_what_cannot_be_read_says_why(tmp_path):
    with pytest.raises(TextError, match="not found"):
        read_text(tmp_path / "missing")
    (tmp_path / "bytes").write_bytes(b"\xff\xfa\x01abc")
    with pytest.raises(TextError, match="UTF-8"):
        read_text(tmp_path / "bytes")


def test_empty_file(tmp_path):
    (tmp_path / "empty").write_bytes(b"")
    assert read_text(tmp_path / "empty") == ""
