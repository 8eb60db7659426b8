import fnmatch
import hashlib
import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import huggingface_hub
import pytest
from huggingface_hub import constants

from ddim_edit.errors import DDIMEditError
from ddim_edit.models.hub import fetch
from ddim_edit.models.hub_files import TIMEOUT

ONE_SENTENCE = r"^[^\n]+$"
SHA = "0123456789abcdef0123456789abcdef01234567"

# What these repositories hold, folder by folder: + is to be fetched, - is not.
SD15 = """
.                 -.gitattributes -README.md +model_index.json -v1-inference.yaml
.                 -v1-5-pruned-emaonly.ckpt -v1-5-pruned-emaonly.safetensors -v1-5-pruned.ckpt -v1-5-pruned.safetensors
feature_extractor +preprocessor_config.json
safety_checker    -config.json -model.fp16.safetensors -model.safetensors -pytorch_model.bin -pytorch_model.fp16.bin
scheduler         +scheduler_config.json
text_encoder      +config.json -model.fp16.safetensors +model.safetensors -pytorch_model.bin -pytorch_model.fp16.bin
tokenizer         +merges.txt +special_tokens_map.json +tokenizer_config.json +vocab.json
unet              +config.json +diffusion_pytorch_model.safetensors -diffusion_pytorch_model.fp16.safetensors
unet              -diffusion_pytorch_model.non_ema.safetensors -diffusion_pytorch_model.non_ema.bin
unet              -diffusion_pytorch_model.bin -diffusion_pytorch_model.fp16.bin
vae               +config.json +diffusion_pytorch_model.safetensors -diffusion_pytorch_model.fp16.safetensors
vae               -diffusion_pytorch_model.bin -diffusion_pytorch_model.fp16.bin
"""
SDXL = """
.                 -.gitattributes -01.png -LICENSE.md -README.md -comparison.png +model_index.json -pipeline.png
.                 -sd_xl_base_1.0.safetensors -sd_xl_base_1.0_0.9vae.safetensors
.                 -sd_xl_offset_example-lora_1.0.safetensors
scheduler         +scheduler_config.json
text_encoder      +config.json -flax_model.msgpack -model.fp16.safetensors -model.onnx +model.safetensors
text_encoder      -openvino_model.bin -openvino_model.xml
text_encoder_2    +config.json -flax_model.msgpack -model.fp16.safetensors -model.onnx -model.onnx_data
text_encoder_2    +model.safetensors -openvino_model.bin -openvino_model.xml
tokenizer         +merges.txt +special_tokens_map.json +tokenizer_config.json +vocab.json
tokenizer_2       +merges.txt +special_tokens_map.json +tokenizer_config.json +vocab.json
unet              +config.json -diffusion_flax_model.msgpack -diffusion_pytorch_model.fp16.safetensors
unet              +diffusion_pytorch_model.safetensors -model.onnx -model.onnx_data -openvino_model.bin
vae               +config.json -diffusion_flax_model.msgpack -diffusion_pytorch_model.fp16.safetensors
vae               +diffusion_pytorch_model.safetensors
vae_1_0           -config.json -diffusion_pytorch_model.fp16.safetensors -diffusion_pytorch_model.safetensors
vae_decoder       -config.json -model.onnx -openvino_model.bin -openvino_model.xml
vae_encoder       -config.json -model.onnx -openvino_model.bin -openvino_model.xml
"""
SD3 = """
.                 -.gitattributes -LICENSE.md -README.md +model_index.json -sd3demo.jpg
scheduler         +scheduler_config.json
text_encoder      +config.json -model.fp16.safetensors +model.safetensors
text_encoder_2    +config.json -model.fp16.safetensors +model.safetensors
text_encoder_3    +config.json +model-00001-of-00002.safetensors +model-00002-of-00002.safetensors
text_encoder_3    -model.fp16-00001-of-00002.safetensors -model.fp16-00002-of-00002.safetensors
text_encoder_3    -model.safetensors.index.fp16.json +model.safetensors.index.json
tokenizer         +merges.txt +special_tokens_map.json +tokenizer_config.json +vocab.json
tokenizer_2       +merges.txt +special_tokens_map.json +tokenizer_config.json +vocab.json
tokenizer_3       +special_tokens_map.json +spiece.model +tokenizer.json +tokenizer_config.json
transformer       +config.json +diffusion_pytorch_model.safetensors
vae               +config.json +diffusion_pytorch_model.safetensors
"""
LDM = """
.                 -.gitattributes -README.md +model_index.json
scheduler         +scheduler_config.json
unet              +config.json -diffusion_pytorch_model.bin +diffusion_pytorch_model.safetensors
vqvae             +config.json -diffusion_pytorch_model.bin +diffusion_pytorch_model.safetensors
"""
CIFAR = """
.                 -.gitattributes -README.md +config.json -diffusion_pytorch_model.bin
.                 +diffusion_pytorch_model.safetensors +model_index.json +scheduler_config.json
images            -generated_image_0.png -generated_image_1.png
"""
DIT_PICKLED = """
.                 -.gitattributes -README.md -model_index.json
scheduler         -scheduler_config.json
transformer       -config.json -diffusion_pytorch_model.bin
vae               -config.json -diffusion_pytorch_model.bin
"""
DIT = """
.                 -.gitattributes -README.md +model_index.json
scheduler         +scheduler_config.json
transformer       +config.json -diffusion_pytorch_model.bin +diffusion_pytorch_model.safetensors
vae               +config.json -diffusion_pytorch_model.bin +diffusion_pytorch_model.safetensors
"""
FLUX2 = """
.                 -.gitattributes -LICENSE.txt -README.md +model_index.json -flux2-dev.safetensors
scheduler         +scheduler_config.json
text_encoder      +config.json +generation_config.json +model-00001-of-00002.safetensors
text_encoder      +model-00002-of-00002.safetensors +model.safetensors.index.json
tokenizer         +chat_template.jinja +processor_config.json +tokenizer.json +tokenizer_config.json
transformer       +config.json +diffusion_pytorch_model.safetensors
vae               +config.json +diffusion_pytorch_model.safetensors
"""
_CLIP, _CLIP_WORDS = ["transformers", "CLIPTextModel"], ["transformers", "CLIPTokenizer"]
_VAE, _UNET = ["diffusers", "AutoencoderKL"], ["diffusers", "UNet2DConditionModel"]
INDICES: dict[str, dict[str, object]] = {
    SD15: {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.6.0",
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": [None, None],
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "scheduler": ["diffusers", "PNDMScheduler"],
        "text_encoder": _CLIP,
        "tokenizer": _CLIP_WORDS,
        "unet": _UNET,
        "vae": _VAE,
    },
    SDXL: {
        "_class_name": "StableDiffusionXLPipeline",
        "force_zeros_for_empty_prompt": True,
        "scheduler": ["diffusers", "EulerDiscreteScheduler"],
        "text_encoder": _CLIP,
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": _CLIP_WORDS,
        "tokenizer_2": _CLIP_WORDS,
        "unet": _UNET,
        "vae": _VAE,
    },
    SD3: {
        "_class_name": "StableDiffusion3Pipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "text_encoder_3": ["transformers", "T5EncoderModel"],
        "tokenizer": _CLIP_WORDS,
        "tokenizer_2": _CLIP_WORDS,
        "tokenizer_3": ["transformers", "T5TokenizerFast"],
        "transformer": ["diffusers", "SD3Transformer2DModel"],
        "vae": _VAE,
    },
    LDM: {
        "_class_name": "LDMPipeline",
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
        "vqvae": ["diffusers", "VQModel"],
    },
    CIFAR: {
        "_class_name": "DDPMPipeline",
        "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    },
    DIT: {
        "_class_name": "DiTPipeline",
        "id2label": {"0": "tench, Tinca tinca", "1": "goldfish"},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "Transformer2DModel"],
        "vae": _VAE,
    },
    FLUX2: {
        "_class_name": "Flux2Pipeline",
        "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
        "text_encoder": ["transformers", "Mistral3ForConditionalGeneration"],
        "tokenizer": ["transformers", "PixtralProcessor"],
        "transformer": ["diffusers", "Flux2Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKLFlux2"],
    },
}
INDICES[DIT_PICKLED] = INDICES[DIT]
WHOLE = {
    "runwayml/stable-diffusion-v1-5": SD15,
    "stabilityai/stable-diffusion-xl-base-1.0": SDXL,
    "stabilityai/stable-diffusion-3-medium-diffusers": SD3,
    "CompVis/ldm-celebahq-256": LDM,
    "google/ddpm-cifar10-32": CIFAR,
    "facebook/DiT-XL-2-256@refs/pr/1": DIT,
    "black-forest-labs/FLUX.2-dev": FLUX2,
}


def listed(table: str, marks: str = "+-") -> set[str]:
    lines = (line.split() for line in table.strip().splitlines())
    named = ((folder, name) for folder, *names in lines for name in names if name[0] in marks)
    return {name[1:] if folder == "." else f"{folder}/{name[1:]}" for folder, name in named}


def content(table: str, file: str) -> bytes:
    return json.dumps(INDICES.get(table, {})).encode() if file == "model_index.json" else file.encode()


def store(hub: Path, name: str, table: str, files: Collection[str]) -> Path:
    """Files in the hub's cache as the hub's library lays them out: a ref, blobs, and a snapshot of links to them."""
    repo, _, revision = name.partition("@")
    home = hub / f"models--{repo.replace('/', '--')}"
    (home / "blobs").mkdir(parents=True, exist_ok=True)
    ref = home / "refs" / (revision or "main")
    ref.parent.mkdir(parents=True, exist_ok=True)
    ref.write_text(SHA)
    snapshot = home / "snapshots" / SHA
    for file in files:
        blob = home / "blobs" / hashlib.sha256(file.encode()).hexdigest()
        blob.write_bytes(content(table, file))
        link = snapshot / file
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(os.path.relpath(blob, link.parent))
    return snapshot


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and nothing that forbids connections."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    return tmp_path / "hub"


@dataclass
class Repository:
    """One repository on a hub that has no other, in place of the calls that would connect."""

    table: str
    cache: Path
    calls: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    arriving: float = 1.0

    def model_info(self, repo: str, *, revision: str | None, timeout: float) -> SimpleNamespace:
        self.calls.append(f"list {repo} {revision}")
        assert 0 < timeout <= TIMEOUT
        return SimpleNamespace(siblings=[SimpleNamespace(rfilename=file) for file in listed(self.table)])

    def hf_hub_download(self, repo: str, file: str, *, revision: str | None, etag_timeout: float) -> str:
        self.calls.append(f"read {file}")
        return str(store(self.cache, f"{repo}@{revision or 'main'}", self.table, [file]) / file)

    def snapshot_download(
        self, repo: str, *, revision: str | None, allow_patterns: list[str], etag_timeout: float
    ) -> str:
        self.calls.append("download")
        self.patterns = allow_patterns
        taken = sorted(taken_by(allow_patterns, listed(self.table)) - {"model_index.json"})
        taken = taken[: round(self.arriving * len(taken))]
        return str(store(self.cache, f"{repo}@{revision or 'main'}", self.table, taken))

    def answer(self, monkeypatch: pytest.MonkeyPatch) -> "Repository":
        for call in ("model_info", "hf_hub_download", "snapshot_download"):
            monkeypatch.setattr(huggingface_hub, call, getattr(self, call))
        return self


def taken_by(patterns: list[str], files: set[str]) -> set[str]:
    return {file for file in files if any(fnmatch.fnmatchcase(file, pattern) for pattern in patterns)}


def refused(name: str, offline: bool = False) -> str:
    with pytest.raises(DDIMEditError, match=ONE_SENTENCE) as caught:
        fetch(name, offline=offline)
    return str(caught.value)


# From the cache.


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("offline", [True, False])
@pytest.mark.usefixtures("unplugged")
def test_what_is_whole_in_the_cache_is_used_without_asking(hub: Path, name: str, offline: bool) -> None:
    snapshot = store(hub, name, WHOLE[name], listed(WHOLE[name], "+"))
    assert fetch(name, offline=offline) == snapshot


@pytest.mark.usefixtures("unplugged")
def test_a_commit_is_found_by_its_hash(hub: Path) -> None:
    snapshot = store(hub, "google/ddpm-cifar10-32", CIFAR, listed(CIFAR, "+"))
    assert fetch(f"google/ddpm-cifar10-32@{SHA}") == snapshot
    assert "is not there, in the cache" in refused(f"google/ddpm-cifar10-32@{SHA[::-1]}", offline=True)


@pytest.mark.usefixtures("unplugged")
def test_a_flat_network_needs_no_model_index(hub: Path) -> None:
    files = {"config.json", "scheduler_config.json", "diffusion_pytorch_model.safetensors"}
    snapshot = store(hub, "someone/flat", "", files)
    assert fetch("someone/flat", offline=True) == snapshot
    store(hub, "someone/empty", "", {"config.json"})
    assert "has no whole unet there" in refused("someone/empty", offline=True)


@pytest.mark.parametrize(
    ("table", "lost", "component"),
    [
        (SD15, "unet/config.json", "unet"),
        (SD15, "unet/diffusion_pytorch_model.safetensors", "unet"),
        (SD15, "text_encoder/model.safetensors", "text_encoder"),
        (SD15, "tokenizer/merges.txt", "tokenizer"),
        (SD15, "scheduler/scheduler_config.json", "scheduler"),
        (SD15, "feature_extractor/preprocessor_config.json", "feature_extractor"),
        (SD3, "text_encoder_3/model-00002-of-00002.safetensors", "text_encoder_3"),
        (SD3, "text_encoder_3/model.safetensors.index.json", "text_encoder_3"),
        (LDM, "vqvae/diffusion_pytorch_model.safetensors", "vqvae"),
        (CIFAR, "diffusion_pytorch_model.safetensors", "unet"),
        (CIFAR, "scheduler_config.json", "scheduler"),
    ],
)
@pytest.mark.usefixtures("unplugged")
def test_a_component_that_is_not_whole_is_named(hub: Path, table: str, lost: str, component: str) -> None:
    store(hub, "someone/something", table, listed(table, "+") - {lost})
    assert f"has no whole {component} there" in refused("someone/something", offline=True)


@pytest.mark.usefixtures("unplugged")
def test_pickles_and_half_precision_do_not_make_a_component_whole(hub: Path) -> None:
    store(hub, "someone/something", SD15, listed(SD15) - {"unet/diffusion_pytorch_model.safetensors"})
    assert "has no whole unet there" in refused("someone/something", offline=True)


@pytest.mark.usefixtures("unplugged")
def test_a_link_to_a_blob_that_never_arrived_is_no_file(hub: Path) -> None:
    snapshot = store(hub, "someone/something", SD15, listed(SD15, "+"))
    (snapshot / "vae" / "diffusion_pytorch_model.safetensors").resolve().unlink()
    store(hub, "someone/else", SD15, listed(SD15, "+"))
    assert "has no whole vae there" in refused("someone/something", offline=True)
    assert fetch("someone/else", offline=True)


@pytest.mark.usefixtures("unplugged")
def test_a_model_index_that_is_not_json_is_refused(hub: Path) -> None:
    snapshot = store(hub, "someone/something", SD15, listed(SD15, "+"))
    (snapshot / "model_index.json").write_text("{")
    assert "model_index.json is not JSON" in refused("someone/something", offline=True)


# Offline.


@pytest.mark.usefixtures("unplugged")
def test_offline_what_is_not_cached_is_refused_in_one_sentence(hub: Path) -> None:
    said = refused("google/ddpm-cifar10-32", offline=True)
    assert said == (
        f"google/ddpm-cifar10-32 is not there, in the cache ({hub}), and we are offline. Fetch it once with a "
        "connection, or name a folder."
    )


@pytest.mark.parametrize("value", ["1", "on", "YES", "True"])
@pytest.mark.usefixtures("hub", "unplugged")
def test_the_environment_counts_after_the_hub_was_imported(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert "and we are offline" in refused("google/ddpm-cifar10-32")


@pytest.mark.usefixtures("hub", "unplugged")
def test_what_the_hub_read_from_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "and we are offline" in refused("google/ddpm-cifar10-32")


def test_an_environment_that_says_no_does_not_count(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert Repository(CIFAR, hub).answer(monkeypatch).calls == []
    assert fetch("google/ddpm-cifar10-32").is_dir()


@pytest.mark.usefixtures("hub", "unplugged")
@pytest.mark.parametrize("name", ["a/b/c", "-a/b", "a/b--c", "a b/c", "/b", "a/"])
def test_what_cannot_be_a_hub_id_is_refused_without_asking(name: str) -> None:
    assert "no hub id such as" in refused(name)


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in [name for name in sys.modules if name.partition(".")[0] == "huggingface_hub"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert "pip install 'ddim-edit[diffusers]'" in refused("google/ddpm-cifar10-32")


# Downloads.


@pytest.mark.parametrize("name", WHOLE)
def test_exactly_what_the_model_index_names_is_fetched(hub: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    repository = Repository(WHOLE[name], hub).answer(monkeypatch)
    folder = fetch(name)
    repo, _, revision = name.partition("@")
    assert repository.calls == [f"list {repo} {revision or None}", "read model_index.json", "download"]
    assert taken_by(repository.patterns, listed(WHOLE[name])) == listed(WHOLE[name], "+")
    assert fetch(name) == fetch(name, offline=True) == folder
    assert len(repository.calls) == 3


def test_a_partial_cache_is_completed(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = store(hub, "CompVis/ldm-celebahq-256", LDM, {"model_index.json", "unet/config.json"})
    Repository(LDM, hub).answer(monkeypatch)
    assert fetch("CompVis/ldm-celebahq-256") == snapshot
    assert (snapshot / "vqvae" / "diffusion_pytorch_model.safetensors").is_file()


def test_a_download_that_breaks_off_is_no_checkpoint(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = Repository(LDM, hub, arriving=0.5).answer(monkeypatch)
    assert "no whole unet and vqvae arrived. Try again" in refused("CompVis/ldm-celebahq-256")
    repository.arriving = 1.0
    assert fetch("CompVis/ldm-celebahq-256").is_dir()


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (DIT_PICKLED, ("no safetensors or no config for transformer and vae", "save_pretrained")),
        (".  -README.md -DiT-XL-2-256x256.pt", ("it has no model_index.json", "Download the file")),
        (".  -README.md", ("it has no model_index.json",)),
    ],
)
def test_a_repository_that_we_cannot_read_is_refused_before_its_download(
    hub: Path, monkeypatch: pytest.MonkeyPatch, table: str, words: tuple[str, ...]
) -> None:
    repository = Repository(table, hub).answer(monkeypatch)
    said = refused("facebook/DiT-XL-2-256")
    assert all(word in said for word in words)
    assert "download" not in repository.calls


def test_a_patience_that_the_user_set_is_kept(hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)
    heard: list[float] = []

    def listen(repo: str, *, revision: str | None, timeout: float) -> None:
        heard.append(timeout)
        raise TimeoutError

    monkeypatch.setattr(huggingface_hub, "model_info", listen)
    assert "cannot connect to the hub (TimeoutError)" in refused("google/ddpm-cifar10-32")
    assert heard == [1]


# The hub's own library, in a process of its own: it reads its environment once.

ASK = """
import json, socket, sys
connected = []
connect = socket.socket.connect
socket.socket.connect = lambda self, *where: connected.append(where) or connect(self, *where)
from ddim_edit.models.hub import fetch
from ddim_edit.errors import DDIMEditError
for name in sys.argv[1:]:
    del connected[:]
    try:
        said = str(fetch(name))
    except DDIMEditError as error:
        said = str(error)
    print(json.dumps([said, len(connected)]))
"""


def ask(*names: str, **environment: str) -> list[tuple[str, int]]:
    """What `fetch` says to each name, and how many connections it tried."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    done = subprocess.run(
        [sys.executable, "-c", ASK, *names], env=kept | environment, capture_output=True, text=True, check=True
    )
    return [(said, tries) for said, tries in map(json.loads, done.stdout.splitlines())]


def test_the_cache_is_where_HF_HOME_says(tmp_path: Path) -> None:
    snapshot = store(tmp_path / "hub", "google/ddpm-cifar10-32", CIFAR, listed(CIFAR, "+"))
    assert ask("google/ddpm-cifar10-32", HF_HOME=str(tmp_path)) == [(str(snapshot), 0)]


def test_HF_HUB_OFFLINE_forbids_connections(tmp_path: Path) -> None:
    snapshot = store(tmp_path / "hub", "google/ddpm-cifar10-32", CIFAR, listed(CIFAR, "+"))
    names = ("google/ddpm-cifar10-32", "someone/else", f"google/ddpm-cifar10-32@{SHA[::-1]}")
    cached, unknown, other = ask(*names, HF_HOME=str(tmp_path), HF_HUB_OFFLINE="1")
    assert cached == (str(snapshot), 0)
    for said, tries in (unknown, other):
        assert "is not there, in the cache" in said
        assert tries == 0


def test_no_connection_is_said_after_one_try(tmp_path: Path) -> None:
    with socket.socket() as closed:  # bound but never listening: whoever connects is refused
        closed.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
        names = ("google/ddpm-cifar10-32", f"google/ddpm-cifar10-32@{SHA}")
        answers = ask(*names, HF_HOME=str(tmp_path), HF_ENDPOINT=endpoint)
    for said, tries in answers:
        assert "cannot connect to the hub" in said
        assert tries <= 2  # the hub's library may ask for something of its own beside


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as its library asks for: a repository that is open, one that is gated, and no other."""

    def do_HEAD(self) -> None:
        self.reply(body=False)

    def do_GET(self) -> None:
        self.reply(body=True)

    def reply(self, body: bool) -> None:
        match unquote(urlsplit(self.path).path).strip("/").split("/"):
            case ["api", "models", "broken", _, *_]:
                self.send(500, b"", body)
            case ["api", "models", owner, name, *rest] if owner in ("open", "gated"):
                self.inform(rest, f"{owner}/{name}", body)
            case ["gated", *_]:
                self.send(403, b"", body, **{"X-Error-Code": "GatedRepo"})
            case ["open", _, "resolve", _, *file]:
                self.send(200, content(CIFAR, "/".join(file)), body)
            case _:
                self.send(404, b"", body, **{"X-Error-Code": "RepoNotFound"})

    def inform(self, asked: list[str], repo: str, body: bool) -> None:
        if asked[:1] == ["tree"]:
            files = [
                {"type": "file", "path": file, "size": len(content(CIFAR, file)), "oid": etag(content(CIFAR, file))}
                for file in listed(CIFAR)
            ]
            self.send(200, json.dumps(files).encode(), body)
        elif asked in ([], ["revision", "main"], ["revision", SHA]):
            siblings = [{"rfilename": file} for file in listed(CIFAR)]
            self.send(200, json.dumps({"id": repo, "sha": SHA, "siblings": siblings}).encode(), body)
        else:
            self.send(404, b"", body, **{"X-Error-Code": "RevisionNotFound"})

    def send(self, status: int, data: bytes, body: bool, **headers: str) -> None:
        self.send_response(status)
        for key, value in {"X-Repo-Commit": SHA, "ETag": f'"{etag(data)}"', **headers}.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def etag(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def endpoint() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.slow
def test_the_answers_of_a_hub_are_understood(tmp_path: Path, endpoint: str) -> None:
    names = ("open/cifar", "open/cifar", "open/cifar@nowhere", "gated/cifar", "no/where", "broken/hub")
    first, second, nowhere, gated, unknown, broken = ask(*names, HF_HOME=str(tmp_path), HF_ENDPOINT=endpoint)
    snapshot = tmp_path / "hub" / "models--open--cifar" / "snapshots" / SHA
    assert (first[0], second) == (str(snapshot), (str(snapshot), 0))
    arrived = {path.relative_to(snapshot).as_posix(): path for path in snapshot.rglob("*") if path.is_file()}
    assert set(arrived) == listed(CIFAR, "+")
    assert all(path.read_bytes() == content(CIFAR, file) for file, path in arrived.items())
    assert "open/cifar@nowhere: the hub does not know this revision" in nowhere[0]
    assert "gated/cifar: it is gated. Accept its terms" in gated[0]
    assert "no/where: the hub does not know it. Check the spelling" in unknown[0]
    assert "broken/hub: the hub refused" in broken[0]
