"""The service of docs/howto/service.md: photographs in, PNG files out, from one model in threads."""

import asyncio
import importlib.util
import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from ddim_edit import Direction, Editor, load_model

from .. import tiny

EXAMPLE = Path(__file__).parents[2] / "examples" / "service.py"


@pytest.fixture(scope="module")
def service() -> ModuleType:
    spec = importlib.util.spec_from_file_location("service", EXAMPLE)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def editor(tmp_path_factory: pytest.TempPathFactory) -> Editor:
    return Editor(load_model(tiny.save_model(tmp_path_factory.mktemp("models") / "tiny")))


@pytest.fixture(scope="module")
def direction(editor: Editor) -> Direction:
    return editor.attribute_from(tiny.pixels(1), tiny.pixels(2), "warm", steps=6)


@pytest.fixture
def client(service: ModuleType, editor: Editor, direction: Direction) -> Iterator[TestClient]:
    with TestClient(service.make_app(editor, {"warm": direction}, workers=3)) as client:
        yield client


def png(seed: int = 0, height: int = 40, width: int = 30) -> bytes:
    file = io.BytesIO()
    Image.fromarray(tiny.pixels(seed, height, width)).save(file, "PNG")
    return file.getvalue()


def pixels(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return np.asarray(image)


def test_requests_at_once_get_the_photographs_that_the_editor_makes(
    client: TestClient, editor: Editor, direction: Direction
) -> None:
    def post(number: int) -> np.ndarray:
        answer = client.post("/edit", params={"direction": "warm", "strength": number}, content=png(number))
        assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
        return pixels(answer.content)

    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(post, range(6)))
    assert np.array_equal(answers[0], tiny.pixels(0, 40, 30))  # strength 0
    for number, answer in enumerate(answers):
        wanted = editor.edit_photograph(png(number), {direction: number}).to_pil()
        assert np.array_equal(answer, np.asarray(wanted))
    assert not np.array_equal(answers[1], tiny.pixels(1, 40, 30))


@pytest.mark.parametrize(
    ("params", "content", "status", "sentence"),
    [
        ({}, b"not an image", 400, "not a PNG"),
        ({}, png()[:100], 400, "truncated or damaged"),
        ({}, b"", 400, "empty"),
        ({"strength": "nan"}, png(), 400, "finite"),
        ({"direction": "/etc/passwd"}, png(), 404, "no such direction. Choose one of warm"),
        ({}, bytes(2000), 413, "Send a smaller one"),
    ],
)
def test_bad_requests_get_one_plain_sentence(
    client: TestClient,
    service: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    params: dict[str, str],
    content: bytes,
    status: int,
    sentence: str,
) -> None:
    if status == 413:
        monkeypatch.setattr(service, "MOST_BYTES", 1000)
    answer = client.post("/edit", params={"direction": "warm", **params}, content=content)
    assert answer.status_code == status
    assert sentence in answer.json()["detail"]
    assert "\n" not in answer.json()["detail"]
    assert answer.json()["detail"].endswith(".")


def test_a_client_that_goes_away_ends_its_work_and_frees_its_thread(
    service: ModuleType, editor: Editor, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    started, evaluations = threading.Event(), []

    def slow_editor(model: Any, on_evaluation: Any) -> Editor:
        def wait_for_the_end(images: int) -> None:
            evaluations.append(images)
            started.set()
            while True:  # until the client has gone, which raises
                on_evaluation(images)

        return Editor(model, on_evaluation=wait_for_the_end)

    monkeypatch.setattr(service, "Editor", slow_editor)
    app = service.make_app(editor, {"warm": direction}, workers=1)
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/edit",
        "query_string": b"direction=warm",
        "headers": [],
    }

    async def request() -> list[dict[str, Any]]:
        messages = [{"type": "http.request", "body": png(), "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if messages:
                return messages.pop()
            while not started.is_set():
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent

    sent = asyncio.run(request())
    assert sent[0]["status"] == service.CLIENT_CLOSED_REQUEST
    assert len(evaluations) == 1
    monkeypatch.setattr(service, "Editor", Editor)
    with TestClient(app) as client:  # its one thread is free
        assert client.post("/edit?direction=warm", content=png()).status_code == 200


def test_more_requests_than_may_wait_are_turned_away(
    service: ModuleType, editor: Editor, direction: Direction, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MOST_WAITING", 1)
    entered, leave = threading.Event(), threading.Event()

    def hold(*_: object) -> bytes:
        entered.set()
        leave.wait()
        return png()

    monkeypatch.setattr(service, "edit_to_png", hold)
    with (
        TestClient(service.make_app(editor, {"warm": direction})) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        first = threads.submit(client.post, "/edit?direction=warm", content=png())
        entered.wait()
        second = client.post("/edit?direction=warm", content=png())
        leave.set()
        assert (second.status_code, first.result().status_code) == (503, 200)


def test_the_packaged_model_is_served_with_its_directions(service: ModuleType) -> None:
    with TestClient(service.serve()) as client:
        assert {"old", "female"} <= set(client.get("/directions").json())
