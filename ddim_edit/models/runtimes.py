"""Run networks by ONNX Runtime or OpenVINO instead of PyTorch, on processors.

Measured against our own layers on a processor with AVX-512 and bfloat16 instructions, neither is faster in float32, and
OpenVINO is a little faster in bfloat16 (docs/performance.md), so "auto" is PyTorch.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from packaging.version import Version
from torch import Tensor, nn

from ddim_edit.errors import ArgumentError, DDIMEditError, ModelError, first_line
from ddim_edit.io.extras import import_extra, require_extra
from ddim_edit.machine import instruction_sets
from ddim_edit.models.checkpoint import LoadOptions
from ddim_edit.models.devices import PRECISIONS, is_native
from ddim_edit.models.executors import Inputs, OutputExecutor
from ddim_edit.models.onnx_graphs import load_graph

RUNTIMES = {"auto": "PyTorch", "torch": "PyTorch", "onnx": "ONNX Runtime", "openvino": "OpenVINO"}
"""Runtimes, and what each is called; what is not PyTorch is also the name of the extra that it needs."""
_PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino"}
_TORCH = (2, 9)
"""The first torch that exports by torch.export unless asked otherwise. What 2.6 exports, runtimes do not understand."""
_BELOW_AVX512 = {"SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2"}
"""What keeps oneDNN from AVX-512, as ONEDNN_MAX_CPU_ISA. OpenVINO's own oneDNN obeys it and the rest of OpenVINO does
not, so that networks do not compile, or end the process (2026.4 on AVX-512)."""
_STATIC_SHAPES = 4
"""Shapes for which OpenVINO compiles a network of its own, which is up to a tenth faster, and takes a second and the
weights once more; others share one for all sizes of a batch."""


class Session(Protocol):
    """A graph that was loaded: inputs of any batch in, the output out."""

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the output."""
        ...


class OnnxSession:
    """A graph in ONNX Runtime, in float32, with as many threads as torch has.

    Args:
        file: the graph.
        dtype: float32, as ONNX Runtime has no bfloat16 on processors.

    References:
        ONNX Runtime developers, "ONNX Runtime", https://onnxruntime.ai, 2018.
    """

    def __init__(self, file: Path, dtype: torch.dtype) -> None:
        # Otherwise it tells Microsoft that it was imported, and leaves an identifier in the user's cache.
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
        ort: Any = import_extra("onnxruntime", "onnx", "ONNX Runtime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        self._names = [each.name for each in self._session.get_inputs()]

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the output."""
        (output,) = self._session.run(None, {name: inputs[name].numpy() for name in self._names})
        return torch.from_numpy(output)


class OpenVinoSession:
    """A graph in OpenVINO, with as many threads as torch has.

    Args:
        file: the graph.
        dtype: float32 or bfloat16, in which it multiplies; its inputs and its output are float32.

    References:
        Intel, "OpenVINO Toolkit", https://docs.openvino.ai, 2018.
    """

    def __init__(self, file: Path, dtype: torch.dtype) -> None:
        self._openvino = _import_openvino()
        self._core = self._openvino.Core()
        self._model = self._core.read_model(str(file))
        self._names = [each.any_name for each in self._model.inputs]
        self._settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype == torch.bfloat16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        self._requests: dict[int | None, Any] = {}

    def __call__(self, inputs: Inputs) -> Tensor:
        """Return the output."""
        request = self._request_for(len(inputs["x"]))
        for name in self._names:
            request.set_tensor(name, self._openvino.Tensor(inputs[name].numpy(), shared_memory=True))
        request.infer()
        # The next call overwrites it.
        return torch.from_numpy(request.get_output_tensor(0).data.copy())

    def _request_for(self, batch: int) -> Any:
        """Return a network for a size of a batch, or, when there are some of those, the one for any."""
        size = batch if batch in self._requests or len(self._requests) < _STATIC_SHAPES else None
        if size not in self._requests:
            model = self._model.clone()
            if size is not None:
                shapes = {each.any_name: [size, *each.partial_shape[1:]] for each in model.inputs}
                model.reshape(shapes)
            self._requests[size] = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        return self._requests[size]


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which would tell Google Analytics that it was imported."""
    telemetry = "openvino_telemetry"
    before = sys.modules.get(telemetry)
    sys.modules[telemetry] = None  # type: ignore[assignment] # as for a module that is not installed
    try:
        return import_extra("openvino", "openvino", "OpenVINO")
    finally:
        if before is None:
            del sys.modules[telemetry]
        else:
            sys.modules[telemetry] = before


_SESSIONS: dict[str, Callable[[Path, torch.dtype], Session]] = {"onnx": OnnxSession, "openvino": OpenVinoSession}


class RuntimeNetwork(OutputExecutor):
    """A network whose output another runtime computes, exported at its first call for a shape.

    Calls run one at a time. Copies and pickles load their graph anew.

    Args:
        network: in float32 on the CPU, with plain layers.
        runtime: "onnx" or "openvino".
        dtype: what the runtime multiplies in.

    Raises:
        ModelError: when called, a network that cannot be exported, or that the runtime cannot run.
    """

    def __init__(self, network: nn.Module, runtime: str, dtype: torch.dtype) -> None:
        super().__init__(network)
        self.runtime = runtime
        self._dtype = dtype
        self._sessions: dict[tuple[tuple[str, torch.Size], ...], Session] = {}
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._network, self.runtime, self._dtype)

    def __call__(self, x: Tensor, index: Tensor, **conditioning: Tensor) -> Tensor:
        """Return the network's output."""
        if not len(x):
            return self._network(x, index, **conditioning)
        inputs = {"x": x, "index": index.float().expand(len(x)), **conditioning}
        # Rows one after another, as the runtimes read them.
        inputs = {name: value.contiguous() for name, value in inputs.items()}
        with self._lock:
            return self._session_for(inputs)(inputs)

    def _session_for(self, inputs: Inputs) -> Session:
        shape = tuple((name, value.shape[1:]) for name, value in inputs.items())
        if shape not in self._sessions:
            assert isinstance(self._network, nn.Module)
            self._sessions[shape] = load_graph(self._network, inputs, self._open)
        return self._sessions[shape]

    def _open(self, file: Path) -> Session:
        try:
            return _SESSIONS[self.runtime](file, self._dtype)
        except DDIMEditError:
            raise
        except Exception as error:  # the runtimes have classes of their own
            raise ModelError(
                f"{RUNTIMES[self.runtime]} cannot run this network ({first_line(error, 160)}). Leave --runtime out."
            ) from error


def find_runtime(options: LoadOptions) -> str | None:
    """Return the runtime that was asked for; None for PyTorch."""
    runtime = options.parts.get("runtime")
    return None if runtime in (None, "auto", "torch") else runtime


def require_runtime(options: LoadOptions) -> None:
    """Refuse a runtime where it cannot be used, before anything large is read.

    Args:
        options: how to load a model, with `runtime` among its parts or not.

    Raises:
        ArgumentError: an unknown runtime, or a device, a dtype or options that do not go with it.
        MissingExtraError: it is not installed.
    """
    asked = options.parts.get("runtime")
    if asked is not None and asked not in RUNTIMES:
        raise ArgumentError(f"runtime must be one of {', '.join(RUNTIMES)}, not {asked!r:.60}.")
    runtime = find_runtime(options)
    if runtime is None:
        return
    name = RUNTIMES[runtime]
    if options.parts.get("offload"):
        raise ArgumentError(f"{name} runs on the processor, so nothing is offloaded. Leave offload or runtime out.")
    if options.device.type != "cpu":
        raise ArgumentError(
            f"{name} runs on the processor here, not on {options.device}. Take the device cpu, or leave runtime out."
        )
    if options.compiled or options.blocks == "compiled":
        raise ArgumentError(f"{name} compiles networks itself. Leave compiling or runtime out.")
    precision = PRECISIONS[options.dtype]
    dtypes = {precision.dtype, precision.low or precision.dtype}
    if not dtypes <= ({torch.float32} if runtime == "onnx" else {torch.float32, torch.bfloat16}):
        raise ArgumentError(f"{name} does not compute in {options.dtype} here. Take the dtype float32.")
    if not all(is_native(options.device, dtype) for dtype in dtypes):
        raise ArgumentError(
            f"This processor has no instructions for {options.dtype}, so {name} does not compute in it. Take the dtype "
            "float32."
        )
    if Version(torch.__version__).release < _TORCH:
        raise ArgumentError(
            f"Exporting networks to {name} takes torch {'.'.join(map(str, _TORCH))} or newer, and this is "
            f"{torch.__version__}. Update it, or leave runtime out."
        )
    require_extra(_PACKAGES[runtime], runtime, name)
    require_extra("onnxscript", runtime, f"Exporting networks to {name}")
    for variable in ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        limit = os.environ.get(variable, "")
        if runtime == "openvino" and limit.upper() in _BELOW_AVX512 and "AVX-512" in instruction_sets():
            raise ArgumentError(
                f"OpenVINO crashes on this processor where {variable} is {limit}. Unset it, or leave runtime out."
            )
