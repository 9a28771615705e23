"""What clients get: answers in both forms, and a sentence with a 4xx for what is wrong."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from PIL import Image

pytest.importorskip("starlette", reason="the serve extra is not installed: pip install 'flexdetr[serve]'")
pytest.importorskip(
    "prometheus_client", reason="the serve extra is not installed: pip install 'flexdetr[serve]'"
)
pytest.importorskip(
    "python_multipart", reason="the serve extra is not installed: pip install 'flexdetr[serve]'"
)
from starlette.testclient import TestClient

from flexdetr.serve.app import make_app
from flexdetr.serve.limits import Limits


@pytest.fixture
def client(detector):
    with TestClient(make_app(detector, name="marked")) as opened:
        yield opened


def infer_body(content: bytes, **more) -> dict:
    data = [base64.b64encode(content).decode()]
    return {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": data}], **more}


def assert_dog(response, score=0.8, size=(40, 30)):
    assert response.status_code == 200, response.text
    document = response.json()
    assert (document["width"], document["height"]) == size
    (found,) = document["objects"]
    assert found == {"name": "dog", "label": 7, "score": pytest.approx(score), "box_xyxy": [0, 0, *size]}


def test_a_picture_comes_raw_in_a_form_or_in_json(client, picture):
    assert_dog(client.post("/predict", content=picture()))
    assert_dog(client.post("/predict", files={"image": ("a.png", picture(), "image/png")}))
    text = base64.b64encode(picture()).decode()
    assert_dog(client.post("/predict", json={"image": text}))
    assert_dog(client.post("/predict", json={"image": f"data:image/png;base64,{text}"}))


def test_pictures_are_seen_upright(client, picture):
    exif = Image.Exif()
    exif[0x0112] = 6
    response = client.post("/predict", content=picture(kind="TIFF", exif=exif))
    assert (response.json()["width"], response.json()["height"]) == (30, 40)


def test_the_threshold_is_the_servers_or_the_requests(client, picture):
    assert client.post("/predict", content=picture(red=51)).json()["objects"] == []
    assert_dog(client.post("/predict?threshold=0.1", content=picture(red=51)), 0.2)
    for wrong in ("2", "-1", "nan", "high", ""):
        response = client.post(f"/predict?threshold={wrong}", content=picture())
        assert response.status_code == 400
        assert "between 0 and 1" in response.json()["error"]


def test_kserve_form(client, picture):
    model = client.get("/v2/models/marked").json()
    assert [one["name"] for one in model["outputs"]] == ["boxes", "scores", "labels", "names"]
    assert model["parameters"]["classes"] == [{"id": 1, "name": "cat"}, {"id": 7, "name": "dog"}]
    answer = client.post("/v2/models/marked/infer", json=infer_body(picture(), id="mine")).json()
    assert (answer["model_name"], answer["id"]) == ("marked", "mine")
    outputs = {one["name"]: one for one in answer["outputs"]}
    assert outputs["boxes"] == {"name": "boxes", "datatype": "FP32", "shape": [1, 4], "data": [0, 0, 40, 30]}
    assert (outputs["labels"]["data"], outputs["names"]["data"]) == ([7], ["dog"])
    assert outputs["scores"]["data"] == pytest.approx([0.8])
    body = infer_body(picture(), parameters={"threshold": 0.9})
    none = client.post("/v2/models/marked/infer", json=body).json()
    assert {one["name"]: one["shape"] for one in none["outputs"]} == {
        "boxes": [0, 4], "scores": [0], "labels": [0], "names": [0]
    }  # fmt: skip
    for path in ("/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/marked/ready"):
        assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    "change",
    [
        {"inputs": None},
        {"inputs": []},
        {"inputs": [7]},
        {"inputs": [{"name": "image", "datatype": "UINT8", "shape": [1], "data": ["aa"]}]},
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": "aa"}]},
        {"inputs": [{"name": "image", "datatype": "BYTES", "shape": [1], "data": [7]}]},
        {"parameters": {"threshold": "much"}},
    ],
)
def test_kserve_requests_that_are_wrong_get_a_sentence(client, picture, change):
    response = client.post("/v2/models/marked/infer", json={**infer_body(picture()), **change})
    assert response.status_code == 400
    assert response.json()["error"]


def huge_png(width: int, height: int) -> bytes:
    """A PNG of few bytes that would take gigabytes to decode."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000)))


def test_bad_uploads_get_a_4xx_with_a_sentence(client, picture):
    whole = picture(kind="JPEG", size=(200, 200))
    sent = [
        (400, "no body", {"content": b""}),
        (415, "not a picture", {"content": b"%PDF-1.7 something else"}),
        (422, "damaged", {"content": whole[: len(whole) // 2]}),
        (413, "too large", {"content": huge_png(50_000, 50_000)}),
        (413, "8000 x 8000", {"content": huge_png(8_000, 8_000)}),
        (400, "not JSON", {"content": b"{", "headers": {"content-type": "application/json"}}),
        (400, "not JSON", {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}),
        (400, "JSON object", {"json": [1]}),
        (400, "base64", {"json": {}}),
        (400, "not base64", {"json": {"image": "@@@"}}),
        (
            400,
            "no file",
            {
                "data": {"image": "text"},
                "files": {},
                "headers": {"content-type": "multipart/form-data; boundary=x"},
            },
        ),
        (400, "form cannot be read", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}),
        (400, "empty", {"files": {"image": ("a.png", b"", "image/png")}}),
        (400, "form cannot be read", {"files": [("a", ("a.png", picture())), ("b", ("b.png", picture()))]}),
    ]
    for status, words, request in sent:
        if "data" in request:
            body = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\ntext\r\n--x--\r\n'
            request = {"content": body, "headers": request["headers"]}
        response = client.post("/predict", **request)
        error = response.json()["error"]
        assert (response.status_code, words in error) == (status, True), error
        assert "\n" not in error
        assert "Traceback" not in error
    assert_dog(client.post("/predict", content=picture()))  # and it goes on


def test_large_bodies_are_refused_before_they_are_read(detector, picture):
    limits = Limits(max_bytes=10_000)
    with TestClient(make_app(detector, name="marked", limits=limits)) as client:
        read = []

        def endless():
            for _ in range(1000):
                read.append(1)
                yield bytes(1000)

        for content in (bytes(10_001), endless()):
            response = client.post("/predict", content=content)
            assert response.status_code == 413
            assert "10,000 bytes" in response.json()["error"]
        form = {"image": ("a.png", bytes(20_000), "image/png")}
        assert client.post("/predict", files=form).status_code == 413
        assert_dog(client.post("/predict", content=picture()))
    assert detector.batches == [1]


def test_a_token_is_asked_for(detector, picture):
    with TestClient(make_app(detector, name="marked", token="secret")) as client:
        for headers in ({}, {"authorization": "Bearer wrong"}, {"authorization": "secret"}):
            response = client.post("/predict", content=picture(), headers=headers)
            assert response.status_code == 401
            assert "token" in response.json()["error"]
        assert client.get("/metrics").status_code == 401
        assert client.get("/v2/models/marked").status_code == 401
        right = {"authorization": "Bearer secret"}
        assert_dog(client.post("/predict", content=picture(), headers=right))
        assert client.get("/metrics", headers=right).status_code == 200
        assert client.get("/health").status_code == client.get("/").status_code == 200


def test_a_detector_that_fails_is_a_500_without_its_insides_and_the_server_goes_on(client, picture):
    response = client.post("/predict", content=picture(green=255))
    assert response.status_code == 500
    assert "breaks" not in response.text
    assert_dog(client.post("/predict", content=picture()))
    assert client.get("/health").json()["status"] == "ok"


def test_requests_that_wait_too_long_and_requests_that_are_too_many(detector, picture):
    detector.go.clear()
    slow = Limits(seconds=0.3, in_flight=2, batch_size=1)
    with TestClient(make_app(detector, name="marked", limits=slow)) as client:
        started = threading.Barrier(3)

        def ask(_):
            started.wait(20)
            return client.post("/predict", content=picture())

        with ThreadPoolExecutor(3) as pool:
            statuses = sorted(response.status_code for response in pool.map(ask, range(3)))
        assert set(statuses) <= {408, 503}
        assert 408 in statuses
        detector.go.set()
        assert_dog(client.post("/predict", content=picture()))


def test_many_clients_get_each_their_own_answer_in_batches(detector, picture):
    limits = Limits(batch_size=4, batch_wait=0.05)
    with (
        TestClient(make_app(detector, name="marked", limits=limits)) as client,
        ThreadPoolExecutor(8) as pool,
    ):
        reds = [*range(110, 150)]
        answers = pool.map(lambda red: client.post("/predict", content=picture(red)).json(), reds)
        scores = [answer["objects"][0]["score"] for answer in answers]
        assert scores == pytest.approx([red / 255 for red in reds], abs=1e-5)
        assert sum(detector.batches) == len(reds)
        assert max(detector.batches) > 1
        assert max(detector.batches) <= 4
        text = client.get("/metrics").text
    assert 'flexdetr_requests_total{path="/predict",status="200"} 40.0' in text
    assert 'flexdetr_objects_total{name="dog"} 40.0' in text
    assert "flexdetr_in_flight 0.0" in text
    assert "flexdetr_batch_size_sum 40.0" in text


def test_other_addresses_get_a_sentence(client):
    for response in (client.get("/nothing"), client.get("/predict"), client.post("/health")):
        assert response.status_code in (404, 405)
        assert "POST a picture to /predict" in response.json()["error"]


def test_the_page_needs_nothing_from_elsewhere(client):
    response = client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "http" not in response.text.replace("http://www.w3.org/2000/svg", "")


def test_pictures_of_all_kinds(client, picture):
    for kind in ("JPEG", "WEBP", "BMP", "GIF"):
        assert client.post("/predict", content=picture(kind=kind)).status_code == 200, kind
    grey = io.BytesIO()
    Image.new("I;16", (20, 10), 60_000).save(grey, "PNG")
    assert client.post("/predict", content=grey.getvalue()).json()["objects"][0]["score"] == pytest.approx(
        234 / 255
    )
    json.dumps(client.get("/health").json())
