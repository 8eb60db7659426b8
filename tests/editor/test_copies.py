"""Editors and their results can be copied, pickled and moved, and work in other processes; nothing tracks gradients."""

import copy
import multiprocessing
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ddim_edit import Editor, Model, NetworkDenoiser, NoiseSchedule, load_model
from ddim_edit.models.codec.pixels import ColourCodec
from ddim_edit.models.devices import DeviceNetwork
from ddim_edit.models.placing import Mover
from ddim_edit.models.prompts import VisitingEncoders

from .. import rounding, tiny
from .measures import QUICK


class OwnNetwork(nn.Module):
    """A network as users write it: with trainable weights, and nothing that this package knows of."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 3, padding=1)
        nn.init.normal_(self.convolution.weight, std=0.05, generator=torch.Generator().manual_seed(0))
        nn.init.zeros_(self.convolution.bias)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.convolution(x) * (index.view(-1, 1, 1, 1) / 1000).cos()


def own_editor() -> Editor:
    network = NetworkDenoiser(OwnNetwork())
    shape, components = (3, tiny.SIZE, tiny.SIZE), {"network": "own"}
    model = Model(network, ColourCodec(), NoiseSchedule.linear(), shape, "own", components, "epsilon")
    return Editor(model, batch_size=2)


@pytest.fixture(scope="module", params=["own", "tiny", "mixed"])
def any_editor(request: pytest.FixtureRequest, model: Model, tmp_path_factory: pytest.TempPathFactory) -> Editor:
    if request.param == "own":
        return own_editor()
    if request.param == "tiny":
        return Editor(model)
    # Wide enough for Winograd convolutions of large maps, with a second network in bfloat16.
    unet = {"block_out_channels": [128, 128], "sample_size": 32}
    folder = tiny.save_model(tmp_path_factory.mktemp("models") / "wide", unet=unet)
    return Editor(load_model(folder, dtype="mixed"), on_evaluation=lambda count: None)


def results(editor: Editor) -> Tensor:
    photo = tiny.pixels(0, *editor.model.size)
    return editor.reconstruct([photo], QUICK).decoded


def assert_same_results(found: Tensor, wanted: Tensor, editor: Editor) -> None:
    """Fail unless these are one answer but for rounding, which may tip a value of bfloat16 over to the next one."""
    rounding.assert_alike(found, wanted, 2**-5 if editor.model.dtype == "mixed" else rounding.ROUNDING)


@pytest.fixture(scope="module")
def wanted(any_editor: Editor) -> Tensor:
    return results(any_editor)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, lambda editor: pickle.loads(pickle.dumps(editor))])
def test_copies_give_the_same_results(any_editor: Editor, wanted: Tensor, duplicate: Any) -> None:
    made = duplicate(any_editor)
    assert repr(made.model) == repr(any_editor.model)
    assert made.batch_size == any_editor.batch_size
    assert_same_results(results(made), wanted, any_editor)
    # Also one that was made of a copy, before it was used itself.
    assert_same_results(results(duplicate(duplicate(any_editor))), wanted, any_editor)


def test_a_deep_copy_is_independent() -> None:
    editor = own_editor()
    wanted, made = results(editor), copy.deepcopy(editor)
    with torch.no_grad():
        editor.model.denoiser.network.convolution.weight.fill_(0.3)
    assert torch.equal(results(made), wanted)
    assert not torch.equal(results(editor), wanted)


def test_copies_report_progress_and_pickles_leave_it_behind(model: Model) -> None:
    seen: list[int] = []
    editor = Editor(model, on_evaluation=seen.append)
    results(pickle.loads(pickle.dumps(editor)))
    assert not seen
    for duplicate in (copy.copy, copy.deepcopy):
        results(duplicate(editor))
        assert seen
        seen.clear()


def test_results_of_an_own_network_track_no_gradients() -> None:
    editor = own_editor()
    latents = editor.invert([tiny.pixels(0), tiny.pixels(1)], QUICK)
    for x in (latents.x, editor.decode(latents), editor.sample(1, steps=2), editor.sample(1, steps=2, eta=1.0)):
        assert not x.requires_grad
        assert x.numpy().shape == tuple(x.shape)
    assert torch.equal(copy.deepcopy(latents).x, latents.x)
    assert torch.equal(pickle.loads(pickle.dumps(latents)).x, latents.x)
    (array,) = editor.latents_at([tiny.pixels(0)], ["0.4T"], QUICK)
    assert not array.values.requires_grad


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are started find this module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))


def invert_elsewhere(editor: Editor, photo: np.ndarray) -> np.ndarray:
    torch.set_num_threads(1)
    return editor.invert(photo, QUICK).x.numpy()


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_an_own_network_inverts_in_a_spawned_process() -> None:
    editor, photo = own_editor(), tiny.pixels(0)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found = pool.apply(invert_elsewhere, (editor, photo))
    rounding.assert_alike(torch.from_numpy(found), editor.invert(photo, QUICK).x)


@pytest.mark.slow
@pytest.mark.usefixtures("importable")
def test_editors_invert_in_processes_of_joblib() -> None:
    from joblib import Parallel, delayed

    editor = own_editor()
    photos = [tiny.pixels(seed) for seed in range(2)]
    found = Parallel(n_jobs=2, max_nbytes=None)(delayed(invert_elsewhere)(editor, photo) for photo in photos)
    rounding.assert_alike(torch.from_numpy(np.stack(found)), editor.invert(photos, QUICK).x)


class Inverted(torch.utils.data.Dataset[Tensor]):
    def __init__(self, editor: Editor) -> None:
        self.editor = editor

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> Tensor:
        return self.editor.invert(tiny.pixels(index), QUICK).x


@pytest.mark.slow
def test_editors_invert_in_workers_of_a_data_loader() -> None:
    dataset = Inverted(own_editor())
    (found,) = torch.utils.data.DataLoader(dataset, batch_size=2, num_workers=1)
    rounding.assert_alike(found, torch.stack([dataset[0], dataset[1]]))


def test_a_model_is_moved_with_all_that_it_shares(any_editor: Editor, wanted: Tensor) -> None:
    """To the CPU again, as there may be no other device: its layers are rewritten for a device where it arrives."""
    model, move = any_editor.model, Mover(torch.device("cpu"))
    denoiser = move(model.denoiser)
    assert denoiser is not model.denoiser
    assert denoiser is move(model.denoiser)
    assert move(model.codec) is model.codec
    network, before = denoiser.network, model.denoiser.network
    if isinstance(network, DeviceNetwork):
        assert network.run is network.network
        assert {id(part) for part in network.network.modules()}.isdisjoint(map(id, before.network.modules()))
        assert [type(part) for part in network.network.modules()][:9] == [
            type(part) for part in before.network.modules()
        ][:9]
    other = Editor(copy.copy(model))
    object.__setattr__(other.model, "denoiser", denoiser)
    assert_same_results(results(other), wanted, any_editor)


def test_moving_to_the_same_device_changes_nothing(editor: Editor) -> None:
    model = editor.model
    assert editor.to("cpu") is editor
    assert editor.model is model


def test_text_encoders_can_be_copied(tmp_path: Path) -> None:
    module = nn.Linear(2, 2)
    visiting = VisitingEncoders([module], torch.device("cpu")).visiting(dict)
    for made in (copy.deepcopy(visiting), pickle.loads(pickle.dumps(visiting))):
        assert made("") == {}
