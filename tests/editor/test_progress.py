"""Bars that show how far a call is, and calls that end because their callback raises."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import tqdm.auto

from ddim_edit import Editor, Model

from .. import tiny


class Bar:
    """What of tqdm is used, and a record of all bars."""

    made: list["Bar"]

    def __init__(self, desc: str, total: int | None, unit: str) -> None:
        self.description, self.total, self.n = desc, total, 0
        self.expected, self.closed = total, False
        self.made.append(self)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(self, *error: object) -> None:
        self.closed = True

    def update(self, n: int) -> None:
        self.n += n

    def refresh(self) -> None:
        pass


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    Bar.made = []
    monkeypatch.setattr(tqdm.auto, "tqdm", Bar)
    return Bar.made


def edit(editor: Editor, files: list[Path], **options: Any) -> None:
    editor.edit(files[2], {editor.attribute_from(files[:1], files[1:2], steps=4): 1.0})


CALLS: dict[str, tuple[Callable[[Editor, list[Path]], object], list[str]]] = {
    "one image": (lambda editor, files: editor.invert(files[0], steps=4), ["inverting"]),
    "a list": (lambda editor, files: editor.invert(files[:3], steps=4), ["inverting"]),
    "a folder": (lambda editor, files: editor.invert(files[0].parent, steps=4), ["inverting"]),
    "a tensor": (lambda editor, files: editor.invert(torch.zeros(2, 3, 16, 16), steps=4), ["inverting"]),
    "there and back": (lambda editor, files: editor.reconstruct(files[:2], steps=4), ["inverting"]),
    "levels": (lambda editor, files: editor.latents_at(files, ["0.4T", "h:0.2T"], steps=6), ["inverting"]),
    "decode": (lambda editor, files: editor.decode(editor.noise([1, 2], steps=3)), ["decoding"]),
    "sample": (lambda editor, files: editor.sample(3, steps=3, eta=1.0), ["sampling"]),
    "edit": (edit, ["inverting", "inverting", "inverting", "decoding"]),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_bar_expects_the_evaluations_that_are_counted(
    model: Model, files: list[Path], bars: list[Bar], name: str
) -> None:
    call, descriptions = CALLS[name]
    counted: list[int] = []
    call(Editor(model, batch_size=2, on_evaluation=counted.append, progress=True), files)
    assert [bar.description for bar in bars] == descriptions
    assert [bar.n for bar in bars] == [bar.expected for bar in bars]
    assert sum(bar.n for bar in bars) == sum(counted) > 0
    assert all(bar.closed for bar in bars)


def test_a_bar_is_complete_where_a_tolerance_decides(model: Model, files: list[Path], bars: list[Bar]) -> None:
    Editor(model, progress=True).invert(files[:2], steps=4, exact=True)
    assert [bar.total for bar in bars] == [bar.n for bar in bars]


def test_a_bar_of_images_that_are_drawn_one_by_one_has_no_total(
    model: Model, files: list[Path], bars: list[Bar]
) -> None:
    Editor(model, progress=True).invert((file for file in files[:2]), steps=4)
    assert [bar.expected for bar in bars] == [None]
    assert bars[0].n == 8


def test_there_is_no_bar_unless_one_is_asked_for(model: Model, files: list[Path], bars: list[Bar]) -> None:
    Editor(model).reconstruct(files[:1], steps=2)
    assert not bars


class CancelledError(Exception):
    pass


@pytest.mark.parametrize("progress", [False, True])
def test_a_callback_that_raises_ends_the_call_and_nothing_else(
    model: Model, files: list[Path], bars: list[Bar], progress: bool
) -> None:
    counted: list[int] = []

    def cancel_at_the_third(images: int) -> None:
        counted.append(images)
        if len(counted) == 3:
            raise CancelledError

    editor = Editor(model, on_evaluation=cancel_at_the_third, progress=progress)
    with pytest.raises(CancelledError):
        editor.invert(files[:2], steps=4)
    assert len(counted) == 3
    assert all(bar.closed for bar in bars)
    assert torch.equal(editor.invert(files[:2], steps=4).x, Editor(model).invert(files[:2], steps=4).x)


def test_editors_on_one_model_are_cancelled_one_by_one(model: Model) -> None:
    pixels = tiny.pixels(0)
    wanted = Editor(model).invert(pixels, steps=6).x
    stop, results = threading.Event(), {}
    running = threading.Barrier(4)

    def work(number: int) -> None:
        evaluations: list[int] = []

        def on_evaluation(images: int) -> None:
            evaluations.append(images)
            if len(evaluations) == 1:
                running.wait()  # all four are on their way
                if number == 0:
                    stop.set()
                stop.wait()
            if number == 0:
                raise CancelledError

        try:
            results[number] = Editor(model, on_evaluation=on_evaluation).invert(pixels, steps=6).x
        except CancelledError:
            results[number] = None

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results.pop(0) is None
    assert len(results) == 3
    assert all(torch.equal(x, wanted) for x in results.values())
