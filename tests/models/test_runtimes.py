"""Networks in ONNX Runtime and OpenVINO, against the same networks in PyTorch."""

import copy
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from packaging.version import Version
from PIL import Image
from torch import Tensor, nn

from ddim_edit import Condition, Editor, InversionConfig, Model, load_model
from ddim_edit.cli import main
from ddim_edit.errors import ArgumentError, MissingExtraError, ModelError
from ddim_edit.images import to_uint8
from ddim_edit.io.extras import is_installed
from ddim_edit.models import onnx_graphs
from ddim_edit.models.checkpoint import LoadOptions
from ddim_edit.models.devices import DeviceNetwork, is_native
from ddim_edit.models.executors import Inputs, OutputExecutor
from ddim_edit.models.onnx_graphs import load_graph
from ddim_edit.models.placing import Mover
from ddim_edit.models.runtimes import _BELOW_AVX512, RuntimeNetwork, require_runtime

from .. import pipelines, tiny
from ..rounding import assert_alike, assert_shown_alike

pytest.importorskip("onnxscript")
pytestmark = pytest.mark.skipif(
    Version(torch.__version__).release < (2, 9), reason="older versions of torch export what runtimes do not understand"
)
CPU, CUDA = torch.device("cpu"), torch.device("cuda")
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
LIMIT = "ONEDNN_MAX_CPU_ISA"
RUNTIMES = [
    name
    for name, package in PACKAGES.items()
    # Under a limit, which stands in for other processors, OpenVINO may crash and is refused.
    if is_installed(package) and not (name == "openvino" and os.environ.get(LIMIT, "") in _BELOW_AVX512)
]
WITH_BFLOAT16 = [name for name in RUNTIMES if name == "openvino" and is_native(CPU, torch.bfloat16)]
ATTENDING = {
    "num_class_embeds": 3,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "UpBlock2D"],
}
LABELLED = Condition(label=1)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Graphs of this file; nobody's own are read or written."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        yield folder / "ddim-edit" / "graphs"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save_model(tmp_path_factory.mktemp("models") / "tiny", unet=ATTENDING)


def network_of(model: Model, **conditioning: Tensor) -> DeviceNetwork:
    network: DeviceNetwork = model.conditioner.network  # type: ignore[union-attr]
    return network.with_conditioning(conditioning or {"label": torch.tensor([1])})


def images(batch: int, channels: int = 3) -> Tensor:
    return torch.randn(batch, channels, tiny.SIZE, tiny.SIZE, generator=torch.Generator().manual_seed(batch))


def times(batch: int) -> Tensor:
    return torch.linspace(3.25, 900, batch)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_runtime_computes_what_the_network_computes(folder: Path, runtime: str) -> None:
    ours, theirs = network_of(load_model(folder)), network_of(load_model(folder, runtime=runtime))
    assert isinstance(theirs.run, RuntimeNetwork)
    for batch in (1, 2, 3, 4, 5, 6, 1):  # more than have a compiled network of their own
        assert_alike(theirs(images(batch), times(batch)), ours(images(batch), times(batch)))
    assert theirs(images(0), times(0)).shape == (0, 3, tiny.SIZE, tiny.SIZE)
    for label in (0, 2):
        other = {"label": torch.tensor([label])}
        x, t = images(2), times(2)
        assert_alike(theirs.with_conditioning(other)(x, t), ours.with_conditioning(other)(x, t))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_copies_and_pickles_compute_the_same(folder: Path, runtime: str) -> None:
    network = network_of(load_model(folder, runtime=runtime))
    wanted = network(images(2), times(2))
    for other in (copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(other(images(2), times(2)), wanted)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_bottleneck_is_read_and_shifted_by_torch(folder: Path, runtime: str) -> None:
    ours, theirs = network_of(load_model(folder)), network_of(load_model(folder, runtime=runtime))
    output, h = theirs.read(images(2), times(2))
    for found, wanted in zip((output, h), ours.read(images(2), times(2)), strict=True):
        assert_alike(found, wanted)
    assert_alike(theirs.shifted(images(2), times(2), h)[1], ours.shifted(images(2), times(2), h)[1])


@pytest.mark.parametrize("runtime", WITH_BFLOAT16)
def test_bfloat16_is_rounded_as_torch_rounds_it(folder: Path, runtime: str) -> None:
    x, t = images(4), times(4)
    wanted = network_of(load_model(folder))(x, t)
    rough = network_of(load_model(folder, dtype="bfloat16"))(x, t)
    found = network_of(load_model(folder, dtype="bfloat16", runtime=runtime))(x, t)
    assert 0 < (found - wanted).norm() < 2 * (rough - wanted).norm()
    mixed = load_model(folder, dtype="mixed", runtime=runtime)
    assert torch.equal(network_of(mixed)(x, t), network_of(load_model(folder, runtime=runtime))(x, t))
    low: Any = mixed.conditioner.low  # type: ignore[union-attr]
    assert torch.equal(low.with_conditioning({"label": torch.tensor([1])})(x, t), found)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_certified_latents_decode_by_torch_too(folder: Path, runtime: str, tmp_path: Path) -> None:
    picture = tiny.save_picture(tmp_path / "face.png")
    config = InversionConfig(steps=4, exact=True, condition=LABELLED)
    latent = Editor(load_model(folder, runtime=runtime)).invert(picture, config)
    assert latent.report["converged"]
    for other in (None, runtime):
        decoded = to_uint8(Editor(load_model(folder, runtime=other)).decode(latent))
        assert np.array_equal(decoded.permute(1, 2, 0), np.asarray(Image.open(picture)))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_command_line_writes_the_same_image(folder: Path, runtime: str, tmp_path: Path) -> None:
    def sampled(*words: str) -> Tensor:
        file = tmp_path / f"{len(words)}.png"
        with pytest.raises(SystemExit) as left:
            main(["sample", "--model", str(folder), "--class", "1", "--steps", "4", "-o", str(file), *words])
        assert left.value.code == 0
        return torch.from_numpy(np.asarray(Image.open(file)).copy())

    dtype = "auto" if runtime == "onnx" else "fp32"  # the only one that ONNX Runtime has is what it gets
    found = sampled("--runtime", runtime, "--device", "cpu", "--dtype", dtype)
    assert_shown_alike(found, sampled("--dtype", "fp32"))


@pytest.mark.slow
def test_networks_of_diffusers_get_their_prompts(tmp_path: Path) -> None:
    painter = pipelines.save(lambda: pipelines.stable_diffusion(tmp_path / "tokens"), tmp_path / "model")
    ours = load_model(painter)
    states = ours.conditioner.encoder.encode("a man")  # type: ignore[union-attr]
    x, t = images(2, channels=4), times(2)
    for runtime in RUNTIMES:  # one after the other, as the export takes longest
        theirs = load_model(painter, runtime=runtime)
        assert_alike(network_of(theirs, **states)(x, t), network_of(ours, **states)(x, t))


class Pointwise(nn.Module):
    """A network of one weight."""

    def __init__(self, weight: float = 2.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([weight]), requires_grad=False)

    def forward(self, x: Tensor, index: Tensor) -> Tensor:
        return self.weight * x + index[:, None, None, None]


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """What is exported in a cache of its own, without the time that it takes."""
    made: list[str] = []

    def export(network: nn.Module, inputs: Inputs, file: Path) -> None:
        file.write_bytes(b"graph")
        file.with_name("graph.onnx.data").write_bytes(b"weights")
        made.append(file.parent.name)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(onnx_graphs, "_export", export)
    return made


def contents(file: Path) -> tuple[bytes, bytes]:
    return file.read_bytes(), file.with_name("graph.onnx.data").read_bytes()


def load(network: nn.Module, batch: int = 2, side: int = 4) -> tuple[bytes, bytes]:
    return load_graph(network, {"x": torch.zeros(batch, 3, side, side), "index": torch.zeros(batch)}, contents)


def test_a_graph_is_exported_once_for_all_batches(exports: list[str]) -> None:
    for batch in (1, 2, 5):
        assert load(Pointwise(), batch) == (b"graph", b"weights")
    assert len(exports) == 1


def test_other_weights_and_shapes_have_other_graphs(exports: list[str]) -> None:
    near = 2 + 2**-20  # the same in half precision
    for network, side in ((Pointwise(), 4), (Pointwise(near), 4), (Pointwise(), 8), (nn.Sequential(Pointwise()), 4)):
        load(network, side=side)
    assert len(set(exports)) == 4


@pytest.mark.parametrize("name", ["graph.onnx", "graph.onnx.data", "digests.json"])
@pytest.mark.parametrize("damage", [b"", b"{", None])
def test_a_damaged_graph_is_made_anew(exports: list[str], tmp_path: Path, name: str, damage: bytes | None) -> None:
    load(Pointwise())
    (file,) = (tmp_path / "cache").rglob(name)
    if damage is None:
        file.unlink()
    else:
        file.write_bytes(damage)
    for _ in range(2):
        assert load(Pointwise()) == (b"graph", b"weights")
    assert len(exports) == 2


def test_a_cache_that_cannot_be_written_is_done_without(
    exports: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    for _ in range(2):
        assert load(Pointwise()) == (b"graph", b"weights")
    assert len(exports) == 2


def test_graphs_that_were_not_used_for_longest_go(exports: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_graphs, "_MOST", 2 * len(b"graphweights"))
    for weight in (1.0, 2.0, 1.0, 3.0, 1.0, 2.0):  # the third makes the second go
        load(Pointwise(weight))
    assert len(exports) == 4


def test_a_network_that_cannot_be_exported_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Branching(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(ModelError, match=r"This network cannot be exported \(.+\). Leave --runtime out."):
        RuntimeNetwork(Branching(), "onnx", torch.float32)(torch.ones(1, 3, 4, 4), torch.ones(1))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_graph_that_a_runtime_does_not_read_is_refused(exports: list[str], runtime: str) -> None:
    with pytest.raises(ModelError, match="cannot run this network"):
        RuntimeNetwork(Pointwise(), runtime, torch.float32)(torch.ones(1, 3, 4, 4), torch.ones(1))


@pytest.mark.parametrize(
    ("options", "runtime", "problem"),
    [
        (LoadOptions(CPU, "float32"), "tvm", "runtime must be one of auto, torch, onnx, openvino, not 'tvm'."),
        (LoadOptions(CUDA, "float32"), "onnx", "ONNX Runtime runs on the processor here, not on cuda. Take the device"),
        (LoadOptions(CPU, "float32", compiled=True), "openvino", "OpenVINO compiles networks itself."),
        (LoadOptions(CPU, "float32", blocks="compiled"), "onnx", "ONNX Runtime compiles networks itself."),
        (LoadOptions(CPU, "mixed"), "onnx", "ONNX Runtime does not compute in mixed here. Take the dtype float32."),
        (LoadOptions(CPU, "float16"), "openvino", "OpenVINO does not compute in float16 here."),
        (LoadOptions(CUDA, "float32", parts={"offload": "model"}), "onnx", "so nothing is offloaded"),
    ],
)
def test_what_does_not_go_with_a_runtime_is_refused(options: LoadOptions, runtime: str, problem: str) -> None:
    require_runtime(options)
    with pytest.raises(ArgumentError) as caught:
        require_runtime(options._replace(parts={**options.parts, "runtime": runtime}))
    assert problem in str(caught.value)


def test_bfloat16_needs_a_processor_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ddim_edit.models.runtimes.is_native", lambda device, dtype: dtype == torch.float32)
    with pytest.raises(ArgumentError, match="This processor has no instructions for bfloat16"):
        require_runtime(LoadOptions(CPU, "bfloat16", parts={"runtime": "openvino"}))


@pytest.mark.skipif(not is_installed("openvino"), reason="needs OpenVINO")
def test_openvino_is_refused_where_it_would_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    options = LoadOptions(CPU, "float32", parts={"runtime": "openvino"})
    monkeypatch.setattr("ddim_edit.models.runtimes.instruction_sets", lambda: ["AVX2", "AVX-512"])
    monkeypatch.setenv(LIMIT, "AVX2")
    with pytest.raises(ArgumentError, match=f"OpenVINO crashes on this processor where {LIMIT} is AVX2. Unset it"):
        require_runtime(options)
    monkeypatch.setenv(LIMIT, "AVX512_CORE")
    require_runtime(options)
    monkeypatch.setenv(LIMIT, "AVX2")
    monkeypatch.setattr("ddim_edit.models.runtimes.instruction_sets", lambda: ["AVX2"])
    require_runtime(options)


def test_old_versions_of_torch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.8.1+cu124")
    with pytest.raises(ArgumentError, match=r"takes torch 2\.9 or newer, and this is 2\.8\.1\+cu124"):
        require_runtime(LoadOptions(CPU, "float32", parts={"runtime": "onnx"}))


@pytest.mark.parametrize("runtime", PACKAGES)
def test_a_runtime_that_is_missing_is_named(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, PACKAGES[runtime], None)
    with pytest.raises(MissingExtraError, match=rf"pip install 'ddim-edit\[{runtime}\]'"):
        load_model("faces64", runtime=runtime)


@pytest.mark.parametrize("runtime", ["auto", "torch", None])
def test_torch_is_the_default(folder: Path, runtime: str | None) -> None:
    assert not isinstance(network_of(load_model(folder, runtime=runtime)).run, OutputExecutor)


def test_a_network_in_a_runtime_is_not_moved() -> None:
    placed = DeviceNetwork(Pointwise(), CPU, None, run=RuntimeNetwork(Pointwise(), "onnx", torch.float32))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="A network in ONNX Runtime stays on the processor"):
        Mover(torch.device("meta"))(placed)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_nothing_is_told_to_their_makers(folder: Path, runtime: str, cache: Path) -> None:
    network_of(load_model(folder, runtime=runtime))(images(1), times(1))
    assert os.environ.get("ORT_DISABLE_TELEMETRY") == "1" or runtime != "onnx"
    assert "openvino_telemetry" not in sys.modules
    assert {path.name for path in cache.parents[1].iterdir()} == {"ddim-edit"}
