"""NaN and infinity: which part made them is said, nothing is written, and other images go on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from ddim_edit import (
    Editor,
    InversionConfig,
    Latent,
    LatentStore,
    Likelihood,
    MixtureDenoiser,
    NoiseSchedule,
    log_likelihood,
)
from ddim_edit.cli import main
from ddim_edit.diffusion.parametrization import Prediction
from ddim_edit.diffusion.schedules import Level
from ddim_edit.distributed import FillJob, local_engine, prepare_store, worker
from ddim_edit.errors import ArgumentError, ModelError, NonFiniteError
from ddim_edit.models.codec.autoencoder import AutoencoderCodec
from ddim_edit.models.codec.pixels import ColourCodec
from ddim_edit.models.model import Model

from .. import tiny

QUICK = InversionConfig("ddim", steps=3)
SHAPE = (3, 8, 8)
SMOOTH = MixtureDenoiser(torch.zeros(1, *SHAPE), torch.ones(1), torch.ones(1))
SENTENCES = "the network of it returned NaN or infinite values in float16. float16 overflows beyond 65,504: load"


@dataclass(frozen=True)
class Spoiled:
    """A denoiser that returns NaN from some evaluation on, for all images or for bright ones alone."""

    first: int = 0
    bright_alone: bool = False
    calls: list[int] = None  # type: ignore[assignment]

    def __call__(self, x: Tensor, level: Level) -> Prediction:
        x0, eps = SMOOTH(x, level)
        self.calls.append(len(x))
        if len(self.calls) > self.first:
            bad = x.flatten(1).mean(1) > 0.4 if self.bright_alone else torch.ones(len(x), dtype=torch.bool)
            eps = torch.where(bad[:, None, None, None], torch.nan, eps)
        return Prediction(x0, eps)


@dataclass(frozen=True)
class SpoiledAutoencoder:
    part: str

    def encode(self, images: Tensor) -> Tensor:
        return images + (torch.nan if self.part == "encoder" else 0)

    def decode(self, z: Tensor) -> Tensor:
        return z + (torch.inf if self.part == "decoder" else 0)


def model(first: int = 0, bright_alone: bool = False, dtype: str = "float16", part: str = "") -> Model:
    codec = AutoencoderCodec(SpoiledAutoencoder(part), factor=1) if part else ColourCodec()
    denoiser = SMOOTH if part else Spoiled(first, bright_alone, [])
    return Model(denoiser, codec, NoiseSchedule.linear(), SHAPE, "it", {}, "epsilon", dtype)


def images(*means: float) -> Tensor:
    return torch.stack([torch.full(SHAPE, mean, dtype=torch.float64) for mean in means])


def edited(editor: Editor, x: Tensor) -> Tensor:
    return editor.analogy(x, -x, x, config=QUICK)


WAYS: dict[str, Callable[[Editor], object]] = {
    "invert": lambda editor: editor.invert(images(0.1, 0.2), QUICK),
    "exact": lambda editor: editor.invert(images(0.1, 0.2), replace(QUICK, exact=True)),
    "reconstruct": lambda editor: editor.reconstruct(images(0.1, 0.2), QUICK),
    "decode": lambda editor: editor.decode(editor.noise([0, 1], QUICK)),
    "sample": lambda editor: editor.sample(2, config=QUICK),
    "sample with noise": lambda editor: editor.sample(2, eta=1.0, config=QUICK),
    "latents at a level": lambda editor: editor.latents_at(images(0.1, 0.2), ["xT"], QUICK),
    "edit": lambda editor: edited(editor, images(0.1)),
    "translate": lambda editor: editor.translate(images(0.1), editor, QUICK),
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.parametrize("first", [0, 2])
def test_every_way_names_the_network_and_its_dtype(name: str, first: int) -> None:
    spoiled = model(first)
    with pytest.raises(ModelError, match="the network of it returned NaN or infinite values") as caught:
        WAYS[name](Editor(spoiled))
    assert "in float16. float16 overflows beyond 65,504: load the model with --dtype bf16 or fp32." in str(caught.value)
    if not first:  # the evaluation, and the one of noise
        assert len(spoiled.denoiser.calls) == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize(("part", "name"), [("encoder", "invert"), ("decoder", "decode"), ("decoder", "sample")])
def test_parts_of_an_autoencoder_are_named(part: str, name: str) -> None:
    with pytest.raises(ModelError, match=f"the {part} of it returned NaN or infinite values.* in float32"):
        WAYS[name](Editor(model(part=part)))


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed", "tf32", "float32"])
def test_each_dtype_has_its_remedy(dtype: str) -> None:
    wanted = "The checkpoint is broken" if dtype == "float32" else "with --dtype fp32"
    with pytest.raises(ModelError, match=f"in {dtype}. .*{wanted}"):
        WAYS["invert"](Editor(model(dtype=dtype)))


def test_a_likelihood_that_is_not_finite_is_refused() -> None:
    for first in (0, 5):
        with pytest.raises(ModelError, match="the network of it returned NaN or infinite values"):
            log_likelihood(model(first, dtype="float32"), images(0.1))
    assert isinstance(log_likelihood(model(10**6, dtype="float32"), images(0.1)), Likelihood)


def test_one_image_ends_nothing_but_itself(tmp_path: Path) -> None:
    editor = Editor(model(bright_alone=True))
    with pytest.raises(NonFiniteError, match="image 2 of 3: the network of it returned NaN"):
        editor.invert(images(0.1, 0.9, 0.2), QUICK)
    (latents,) = editor._runner.invert(images(0.1, 0.9, 0.2), QUICK, None)  # type: ignore[arg-type]
    for index, latent in enumerate(latents[1]):
        path = tmp_path / f"{index}.latent.safetensors"
        if index == 1:
            with pytest.raises(NonFiniteError, match=SENTENCES[:40]):
                latent.save(path)
            assert not path.exists()
        else:
            latent.save(path)
            assert Latent.load(path).x.isfinite().all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_inputs_that_are_not_finite_are_refused(value: float) -> None:
    spoiled = images(0.1)
    spoiled[0, 1, 2, 3] = value
    for name in ("invert", "reconstruct"):
        with pytest.raises(ArgumentError, match="NaN or infinite values"):
            getattr(Editor(model(10**6)), name)(spoiled, QUICK)
    latent = Editor(model(10**6)).noise([0], QUICK)[0]
    with pytest.raises(NonFiniteError, match="the latent contains NaN or infinite values"):
        replace(latent, x=latent.x * value).save("nowhere")


def test_a_store_keeps_the_good_latents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        tiny.save_picture(tmp_path / "images" / f"{index}.png", index, *SHAPE[1:])
    Image.new("RGB", SHAPE[1:], "white").save(tmp_path / "images" / "1.png")
    monkeypatch.setattr(
        worker.Editor, "from_pretrained", lambda *_, **options: Editor(model(bright_alone=True), options["batch_size"])
    )
    job = FillJob(tmp_path / "images", tmp_path / "a.latents", config=QUICK, batch_size=1)
    shards = prepare_store(job, [f"{index}.png" for index in range(3)], 3)
    assert [each.failures.keys() for each in local_engine(job, shards)] == [{"1.png"}]
    store = LatentStore(job.store)
    assert list(store.names) == ["0.png", "2.png"]
    assert "the network of it returned NaN or infinite values in float16" in store.failures["1.png"]


def test_the_command_line_writes_nothing_and_exits_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A network whose weights overflow in float16, as they do not in float32."""
    folder = tiny.save_model(tmp_path / "model")
    weights = tiny.load_weights(folder)
    weights["conv_out.weight"] *= 1e6
    tiny.save_weights(folder, weights)
    picture = tiny.save_picture(tmp_path / "a.png")
    line = ["--model", str(folder), "--dtype", "fp16", "--steps", "2"]
    for command in (
        ["invert", str(picture), "-o", str(tmp_path / "out")],
        ["invert", str(picture), "-o", str(tmp_path / "out" / "a.latents")],
        ["reconstruct", str(picture), "-o", str(tmp_path / "out")],
        ["sample", "-n", "2", "-o", str(tmp_path / "out")],
    ):
        with pytest.raises(SystemExit) as caught:
            main([*command, *line])
        assert caught.value.code == 1
        error = capfd.readouterr().err
        assert "the network of model returned NaN or infinite values in float16" in error
        assert "load the model with --dtype bf16 or fp32" in error
        written = [path for path in (tmp_path / "out").rglob("*") if path.suffix in (".png", ".safetensors")]
        assert not written
