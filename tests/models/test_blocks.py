"""The ways to run residual blocks, against the network as it is."""

import copy
import pickle
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
import torch._dynamo
from torch import Tensor, nn

from ddim_edit import load_model
from ddim_edit.errors import ArgumentError, ModelError
from ddim_edit.models.blocks import BLOCKS, compile_blocks, fusion_obstacle, prepare_blocks, restore_blocks
from ddim_edit.models.layers import GroupNormAct, ResidualBlock
from ddim_edit.models.unet.config import UNetConfig
from ddim_edit.models.unet.network import UNet

from .. import tiny

CUDA = torch.cuda.is_available()
TIMES = torch.tensor([417.25, 3.0])
ONE_LEVEL = {
    "block_out_channels": [8],
    "down_block_types": ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "attn_norm_num_groups": 2,
}


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def unet() -> UNet:
    torch.manual_seed(0)
    return UNet(UNetConfig.from_dict(ONE_LEVEL)).requires_grad_(False)


def test_fused_blocks_fall_back_to_torch_on_a_cpu(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "tiny")
    plain, fused = (load_model(folder, blocks=blocks).denoiser.network for blocks in ("eager", "fused"))
    x = noise(2, 3, tiny.SIZE, tiny.SIZE)
    torch.testing.assert_close(fused(x, TIMES), plain(x, TIMES), rtol=1e-5, atol=1e-5)
    assert fusion_obstacle(torch.device("cpu"), torch.float32) == "the kernels need a CUDA device, and this one is cpu"


@pytest.mark.skipif(CUDA, reason="needs a machine without a CUDA device")
def test_failing_kernels_are_reported_as_obstacle() -> None:
    pytest.importorskip("triton")
    obstacle = fusion_obstacle(torch.device("cuda"), torch.float32)
    assert obstacle is not None
    assert obstacle.startswith("the kernels fail with ")


@pytest.mark.parametrize("options", [{"blocks": "melted"}, {"blocks": "compiled", "compiled": True}])
def test_unknown_blocks_are_refused_before_loading(options: dict[str, object]) -> None:
    with pytest.raises(ArgumentError, match="blocks"):
        load_model("no such model", **options)


class _Block(ResidualBlock):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = GroupNormAct(1, width, 1e-5, nn.SiLU())
        self.conv = nn.Conv2d(width, width + 1, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return self.conv(self.norm(x, emb[:, : x.shape[1]]))


class _Blocks(nn.ModuleList):
    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        *blocks, norm = self
        for block in blocks:
            x = block(x, emb)
        return norm(x)


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[torch.fx.GraphModule]]:
    """What is compiled from here on, which is run as it was traced."""
    made: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., object]:
        made.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=backend))
    torch._dynamo.reset()
    config = torch._dynamo.config
    limit = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"  # in PyTorch 2.6
    with config.patch({limit: 8}):
        yield made


@torch.inference_mode()
def test_equal_blocks_share_compiled_code(graphs: list[torch.fx.GraphModule]) -> None:
    network = unet()
    x = noise(2, 3, 8, 4)
    wanted = network(x, TIMES)
    compile_blocks(network)
    torch.testing.assert_close(network(x, TIMES), wanted)
    # One of the three blocks 8 -> 8, one of the two 16 -> 8, the attention's norm and the last one.
    assert len(graphs) == 4
    network(x, TIMES)
    assert len(graphs) == 4


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
@torch.inference_mode()
def test_copies_of_compiled_blocks_are_compiled_and_have_their_own_weights(
    graphs: list[torch.fx.GraphModule], duplicate: Callable[[nn.Module], nn.Module]
) -> None:
    network = unet()
    compile_blocks(network)
    x = noise(2, 3, 8, 8)
    wanted, made = network(x, TIMES), duplicate(network)
    for parameter in network.parameters():
        parameter.fill_(0.0)
    before = len(graphs)
    torch.testing.assert_close(made(x, TIMES), wanted)
    assert len(graphs) >= before > 0
    restored = restore_blocks(made)
    torch.testing.assert_close(restored(x, TIMES), wanted)
    assert not any("forward" in vars(module) for module in restored.modules())


@torch.inference_mode()
def test_more_shapes_are_compiled_than_torch_keeps_by_default(graphs: list[torch.fx.GraphModule]) -> None:
    network = _Blocks([*(_Block(width) for width in range(1, 13)), nn.GroupNorm(1, 13)])
    x, emb = noise(2, 1, 3, 3), noise(2, 13)
    wanted = network(x.clone(), emb)
    compile_blocks(network)
    torch.testing.assert_close(network(x, emb), wanted)
    assert len(graphs) == 13


def test_uncompilable_blocks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._dynamo.exc import Unsupported

    def failing(forward: Callable[..., Tensor], dynamic: bool) -> Callable[..., Tensor]:
        def call(*args: Tensor) -> Tensor:
            raise Unsupported("no compiler\nand much more")

        return call

    monkeypatch.setattr(torch, "compile", failing)
    network = prepare_blocks(unet(), "compiled")
    with pytest.raises(ModelError, match=r"^The blocks cannot be compiled here \(.*\)\. Load the model with blocks="):
        network(noise(2, 3, 8, 4), TIMES)


@pytest.mark.slow
def test_compiled_blocks_answer_as_the_network_does(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "tiny", unet=ONE_LEVEL)
    plain, compiled = (load_model(folder, blocks=blocks).denoiser.network for blocks in ("eager", "compiled"))
    x = noise(2, 3, tiny.SIZE, tiny.SIZE)
    torch.testing.assert_close(compiled(x, TIMES), plain(x, TIMES), rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not CUDA, reason="needs a CUDA device")
@pytest.mark.parametrize("blocks", BLOCKS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05), (torch.float16, 0.01)])
@torch.inference_mode()
def test_a_graph_captures_blocks_of_every_kind(blocks: str, dtype: torch.dtype, error: float) -> None:
    x, times = noise(2, 3, 16, 8).cuda(), TIMES.cuda()
    wanted = unet().cuda().double()(x.double(), times).float()
    network = unet().to("cuda", dtype).to(memory_format=torch.channels_last)
    if blocks == "fused":
        assert fusion_obstacle(x.device, dtype) is None
    prepare_blocks(network, blocks)
    given = torch.zeros_like(x, dtype=dtype)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
        for _ in range(3):
            network(given, times)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = network(given, times)
        for _ in range(2):
            given.copy_(x)
            graph.replay()
            assert (made.float() - wanted).norm() < error * wanted.norm()
