"""Files of tensors: safetensors, and pickles of which nothing is ever run."""

import pickle
import re
import threading
import warnings
import zipfile
from bisect import bisect_right
from collections.abc import Collection, Container, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from ddim_edit.errors import ModelError
from ddim_edit.models.file_kinds import explain_file, is_archive

_MOST_INFLATED = 4
"""How many times as large as its file a checkpoint may be; torch compresses nothing but TorchScript's code."""
_MAPPED = 256 << 20
"""Bytes that are read of a file before it is opened anew: what was read of it counts as memory until then."""
_FLOATING = {
    torch.float64: {"F64", "torch.float64"},
    torch.float32: {"F32", "torch.float32"},
    torch.float16: {"F16", "torch.float16", "F8_E4M3", "F8_E5M2", "torch.float8_e4m3fn", "torch.float8_e5m2"},
    torch.bfloat16: {"BF16", "torch.bfloat16"},
}
"""The floating dtypes of weights, and how safetensors and torch call them, and those that are read as them."""
_FP8 = re.compile(r"F8_|torch\.float8")
_WHOLE_NUMBERS = re.compile(r"(torch\.)?(u?int|[IU])\d+")
# What bitsandbytes, GPTQ, AWQ and SVDQuant keep beside weights of 4 or 8 bits.
_QUANTISED = re.compile(r"\.(absmax|quant_map|quant_state\.\S+|SCB|qweight|qzeros|wscales|g_idx)$")
# Scales of fp8 and notes on them, as ComfyUI writes them.
_SCALE = re.compile(r"\.(scale_weight|scale_input|weight_scale|input_scale|comfy_quant)$|(^|\.)scaled_fp8$")
_RESAVE = (
    "Load it where you trust it, with the code that wrote it, and save its state_dict with save_file of safetensors."
)


def load_safetensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors in a safetensors file, by name.

    Raises:
        ModelError: the file is broken, or of another kind.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise unreadable(path) from error


def load_pickle(path: Path) -> object:
    """Return what torch unpickles when it may build nothing but tensors and containers.

    Tensors in files of torch 1.6 and later are read from the disk when they are used.

    Raises:
        ModelError: the file is broken, of another kind, or would run code.
    """
    zipped = is_archive(path)
    try:
        if zipped:
            # torch never compresses tensors; a file that does may inflate to any size.
            with zipfile.ZipFile(path) as archive:
                size = sum(part.file_size for part in archive.infolist())
            if size > max(_MOST_INFLATED * path.stat().st_size, 1 << 20):
                raise ModelError(f"{path}: the file would inflate to {size:,} bytes. Save it anew with torch.save.")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of unusual pickles, which it then refuses or reads
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except ModelError:
        raise
    except Exception as error:  # an unpickler that meets a broken file raises anything at all
        if isinstance(error, pickle.UnpicklingError) and (called := re.search(r"GLOBAL ([\w.]+)", str(error))):
            problem = f"the pickle calls {called[1][:80]}, so it cannot be read without running code"
        elif "TorchScript" in str(error):
            problem = "it is a TorchScript program, which cannot be read without running code"
        else:
            raise unreadable(path) from error
        raise ModelError(f"{path}: {problem}. {_RESAVE}") from error


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors by name in a file of nothing else: safetensors or a pickle, with or without "state_dict".

    Raises:
        ModelError: the file is broken, of another kind, without tensors, or would run code.
    """
    if path.suffix.lower() == ".safetensors":
        return load_safetensors(path)
    loaded = load_pickle(path)
    while isinstance(loaded, Mapping) and isinstance(loaded.get("state_dict"), Mapping):
        loaded = loaded["state_dict"]
    found = {}
    for name, value in loaded.items() if isinstance(loaded, Mapping) else ():
        if isinstance(name, str) and isinstance(value, Tensor):
            found[name] = value.detach()
    if not found:
        raise ModelError(f"{path}: there are no tensors by name in this pickle. Download it again.")
    return found


def is_fp8(dtypes: Iterable[str]) -> bool:
    """Return whether weights of these dtypes, as safetensors or torch call them, are fp8."""
    return any(_FP8.match(dtype) for dtype in dtypes)


def upcast_fp8(state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Return a state dict without fp8: as float16, which has all of its numbers, or times the scale of each tensor.

    ComfyUI keeps a scale beside each tensor, as `X.scale_weight` or `X.weight_scale` beside `X.weight`, and others for
    what the layer gets, which serve computing in fp8.
    """
    if not is_fp8(str(tensor.dtype) for tensor in state.values()):
        return state
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if not _SCALE.search(name):
            scale = _scale_of(name, state)
            found[name] = _upcast(tensor, None if scale is None else state[scale])
    return found


def _scale_of(name: str, names: Container[str]) -> str | None:
    """Return the name of the scale of a tensor, if there is one."""
    layer = name.removesuffix(".weight")
    return next((each for each in (f"{layer}.scale_weight", f"{layer}.weight_scale") if each in names), None)


def _upcast(tensor: Tensor, scale: Tensor | None) -> Tensor:
    if not is_fp8([str(tensor.dtype)]):
        return tensor
    return tensor.to(torch.float16) if scale is None else tensor.float() * scale.float()


def require_unquantised(dtypes: Mapping[str, str], source: str) -> None:
    """Refuse weights of few bits, which only the program that made them can compute with.

    Args:
        dtypes: of the tensors by their names, as safetensors or torch call them.
        source: the file, for the error.

    Raises:
        ModelError: there are such weights.
    """
    for name, dtype in dtypes.items():
        if _QUANTISED.search(name) or (name.endswith(".weight") and _WHOLE_NUMBERS.fullmatch(dtype)):
            raise ModelError(
                f"{source}: its weights are quantised ({name:.80}), which cannot be run here. Use the checkpoint in "
                "float16, bfloat16 or fp8."
            )


def common_dtype(tensors: Iterable[Tensor]) -> torch.dtype:
    """Return the dtype of the floating ones among tensors, or float32 where they differ."""
    return _common_dtype({str(tensor.dtype) for tensor in tensors})


def _common_dtype(names: Collection[str]) -> torch.dtype:
    floating = {dtype for dtype, aliases in _FLOATING.items() if not aliases.isdisjoint(names)}
    return floating.pop() if len(floating) == 1 else torch.float32


class TensorRecord(NamedTuple):
    """What is known of a tensor in a file without reading it.

    Fields: file; name in there; shape; dtype as safetensors or torch call it, as in "F16" or "torch.float16"; scale,
    of its fp8 numbers, if they have one.
    """

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: "TensorRecord | None" = None


class StoredTensors(Mapping[str, Tensor]):
    """The tensors by name in some files, which are read when they are asked for, and not kept.

    So a network is filled, and hashed, without all of its file in memory: what is mapped of a safetensors file counts
    as memory until the file is closed. Those of pickles are read from the disk when they are used. fp8 is upcast as by
    `upcast_fp8`. May be used from several threads.

    Args:
        files: safetensors, or pickles of nothing but tensors.

    Raises:
        ModelError: a file that is broken, of another kind, without tensors, or would run code.
    """

    def __init__(self, files: Iterable[Path]) -> None:
        self.records: dict[str, TensorRecord] = {}
        self._loaded: dict[str, Tensor] = {}
        self._opened: dict[Path, Any] = {}
        self._read = 0
        self._lock = threading.Lock()
        for file in files:
            if file.suffix.lower() != ".safetensors":
                tensors = upcast_fp8(read_tensors(file))
                self._loaded |= tensors
                for name, tensor in tensors.items():
                    self.records[name] = TensorRecord(file, name, tuple(tensor.shape), str(tensor.dtype))
                continue
            try:
                with safe_open(file, "pt") as opened:
                    for name in opened.keys():  # noqa: SIM118
                        view = opened.get_slice(name)
                        self.records[name] = TensorRecord(file, name, tuple(view.get_shape()), view.get_dtype())
            except (OSError, SafetensorError) as error:
                raise unreadable(file) from error
        if self.is_fp8:
            kept = {}
            for name, record in self.records.items():
                if not _SCALE.search(name):
                    scale = _scale_of(name, self.records)
                    kept[name] = record._replace(scale=None if scale is None else self.records[scale])
            self.records = kept

    def renamed(self, names: Mapping[str, str]) -> "StoredTensors":
        """Return the tensors under other names.

        Args:
            names: new names, and the ones that they have here; what has no new name is left out.
        """
        other = StoredTensors(())
        other.records = {name: self.records[old] for name, old in names.items()}
        other._loaded = {name: self._loaded[old] for name, old in names.items() if old in self._loaded}
        return other

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor."""
        if name in self._loaded:
            return self._loaded[name]
        record = self.records[name]
        return _upcast(self._read_record(record), None if record.scale is None else self._read_record(record.scale))

    def _read_record(self, record: TensorRecord) -> Tensor:
        try:
            with self._lock:
                if self._read > _MAPPED:
                    self._opened.clear()
                    self._read = 0
                if record.file not in self._opened:
                    self._opened[record.file] = safe_open(record.file, "pt")
                tensor: Tensor = self._opened[record.file].get_tensor(record.name)
                self._read += tensor.nbytes
        except (OSError, SafetensorError) as error:
            raise unreadable(record.file) from error
        return tensor

    def __iter__(self) -> Iterator[str]:
        yield from self.records

    def __len__(self) -> int:
        return len(self.records)

    @property
    def is_fp8(self) -> bool:
        """Whether the files have fp8, which is brought to more bits as it is read."""
        return is_fp8(record.dtype for record in self.records.values())

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds all of its numbers: that of the floating tensors, float32 where they differ."""
        # fp8 times its scale is float32.
        return _common_dtype({"F32" if record.scale else record.dtype for record in self.records.values()})


class StoredViews(Mapping[str, Tensor]):
    """Tensors that are views of those in a safetensors file, read when they are asked for, and not kept.

    So a network is filled from tensors that were renamed and cut, without all of their file in memory. Tensors that
    are no such views are kept.

    Args:
        views: by their names.
        state: what they may be views of, by the names in the file.
        file: the file.
    """

    def __init__(self, views: Mapping[str, Tensor], state: Mapping[str, Tensor], file: Path) -> None:
        self._stored = StoredTensors([file] if file.suffix.lower() == ".safetensors" else [])
        self._views = views
        self._places: dict[str, tuple[str, int]] = {}
        begins = sorted((tensor.data_ptr(), name) for name, tensor in state.items() if tensor.numel())
        for name, view in views.items():
            at = bisect_right(begins, view.data_ptr(), key=lambda begin: begin[0]) - 1
            if at < 0:
                continue
            begin, origin = begins[at]
            record = self._stored.records.get(origin)
            if record is None or record.shape != state[origin].shape or view.dtype != state[origin].dtype:
                continue
            offset = (view.data_ptr() - begin) // view.element_size()
            if offset < state[origin].numel():
                self._places[name] = origin, offset

    def __getitem__(self, name: str) -> Tensor:
        """Return a tensor."""
        view = self._views[name]
        if name not in self._places:
            return view
        origin, offset = self._places[name]
        whole = self._stored[origin]
        return whole.as_strided(view.shape, view.stride(), whole.storage_offset() + offset)

    def __iter__(self) -> Iterator[str]:
        yield from self._views

    def __len__(self) -> int:
        return len(self._views)

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that holds all of its numbers, as `common_dtype`."""
        return common_dtype(self._views.values())


def unreadable(path: Path) -> ModelError:
    """Return the error for a file of tensors that cannot be read, with what it is instead."""
    if kind := explain_file(path):
        return ModelError(f"{path}: {kind}")
    return ModelError(
        f"{path}: the file is broken, or of another kind. Download it again, or save its state_dict with save_file of "
        "safetensors."
    )
