"""Runtimes that a model can be measured in.

======== ======================================================================================================
eager    torch as it is
inductor ``torch.compile`` with freezing: weights folded into constants and pre-arranged for the kernels
onnx     onnxruntime, in a process of its own
openvino OpenVINO in float32, in a process of its own (it would choose bfloat16 by itself where the CPU has it)
======== ======================================================================================================

onnxruntime and OpenVINO keep their threads spinning for a while after every call and so slow down whatever else runs in
their process: each gets a process that holds all models to be compared, takes turns between them on one thread pool
(`syno_nni.measure.worker`), and hands back timings and outputs. Models travel as ONNX files or OpenVINO IR, never as
pickles.
"""
from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from types import FunctionType

import numpy as np
import torch
from torch import Tensor, nn

from syno_nni.errors import MeasureError

from . import RUNTIMES, SEPARATE
from .turns import Call, take_turns

_NEEDED = {'onnx': ('onnxruntime', 'onnx', 'onnxscript'), 'openvino': ('openvino',)}


def missing(runtime: str) -> str:
    """What has to be installed before a runtime can be used; '' when nothing."""
    from importlib.util import find_spec
    if runtime not in RUNTIMES:
        raise MeasureError(f'unknown runtime {runtime!r}: choose from {", ".join(RUNTIMES)}')
    names = [name for name in _NEEDED.get(runtime, ()) if find_spec(name) is None]
    extra = {'onnx': 'onnx', 'openvino': 'openvino'}.get(runtime)
    return f"{', '.join(names)} (pip install 'syno-nni[{extra}]')" if names else ''


def time_in(runtime: str, models: Sequence[nn.Module], example: Tensor, *, threads: int, warmup: int, min_rounds: int,
            max_rounds: int, seconds: float) -> tuple[list[list[float]], list[np.ndarray]]:
    """Milliseconds per call of every model, in turns, and every model's output as an array.

    Models must be in evaluation mode. The caller sets torch's threads and holds the measurement lock.

    Raises:
        MeasureError: the runtime is missing, or a model does not compile, export or run in it.
    """
    if lacking := missing(runtime):
        raise MeasureError(f'the runtime {runtime} needs {lacking}')
    rounds = {'warmup': warmup, 'min_rounds': min_rounds, 'max_rounds': max_rounds, 'seconds': seconds}
    if runtime in SEPARATE:
        return _in_worker(runtime, models, example, threads, rounds)
    if runtime == 'inductor':
        torch._dynamo.reset()  # once, before all: it also forgets how the models before it were compiled
    with torch.inference_mode():
        calls = [_prepared(model, example, runtime) for model in models]
        outputs = [_array(call()) for call in calls]
        return take_turns(calls, **rounds), outputs


def _prepared(model: nn.Module, example: Tensor, runtime: str) -> Call:
    if runtime == 'eager':
        return lambda: model(example)
    import torch._inductor.config as config

    def forward(x: Tensor) -> object:
        return model(x)

    # Code of its own: what dynamo compiles it looks up by code, and past a few entries it gives up and runs eagerly.
    own = FunctionType(forward.__code__.replace(), forward.__globals__, closure=forward.__closure__)
    compiled = torch.compile(own, dynamic=False)
    with config.patch(freezing=True):
        try:
            compiled(example)
        except Exception as error:
            raise MeasureError(f'the model does not compile: {type(error).__name__}: {error}') from error
    return lambda: compiled(example)


def _array(output: object) -> np.ndarray:
    first = output[0] if isinstance(output, (tuple, list)) else output
    return first.detach().float().numpy() if isinstance(first, Tensor) else np.zeros(0)


# ---- runtimes with a process of their own ----

def export_onnx(model: nn.Module, example: Tensor, path: Path, *, free_batch: bool = False) -> None:
    """Writes the model as ONNX, by torch's dynamo exporter; ``free_batch`` leaves dimension 0 open."""
    shapes = ({0: torch.export.Dim('batch', min=1)},) if free_batch else None
    sample = example.expand(max(2, len(example)), *example.shape[1:]) if free_batch else example
    try:
        torch.onnx.export(model, (sample,), path, dynamo=True, dynamic_shapes=shapes, verbose=False)
    except Exception as error:
        raise MeasureError(f'the model does not export to ONNX: {type(error).__name__}: {error}') from error


def export_openvino(model: nn.Module, example: Tensor, path: Path) -> None:
    """Writes the model as OpenVINO IR for the example's shape, weights in float32.

    Goes to the frontend itself: ``openvino.convert_model`` reports every use to its vendor, and asks for leave on a
    terminal, which stops a process in the background.
    """
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # tracing warns of every shape it takes for a constant, as it should here
            decoder = TorchScriptPythonDecoder(model, example_input=example)
        frontend = FrontEndManager().load_by_framework('pytorch')
        converted = frontend.convert(frontend.load(decoder))
        converted.reshape({converted.inputs[0]: list(example.shape)})
        openvino.save_model(converted, path, compress_to_fp16=False)
    except Exception as error:
        raise MeasureError(f'the model does not convert to OpenVINO: {type(error).__name__}: {error}') from error


def _in_worker(runtime: str, models: Sequence[nn.Module], example: Tensor, threads: int,
               rounds: dict[str, float]) -> tuple[list[list[float]], list[np.ndarray]]:
    with tempfile.TemporaryDirectory(prefix='syno-nni-') as name:
        folder = Path(name)
        paths = []
        for n, model in enumerate(models):
            path = folder / f'{n}.{"onnx" if runtime == "onnx" else "xml"}'
            with torch.no_grad():
                (export_onnx if runtime == 'onnx' else export_openvino)(model, example, path)
            paths.append(str(path))
        np.save(folder / 'input.npy', example.numpy())
        job = {'runtime': runtime, 'models': paths, 'threads': threads, 'folder': name, 'rounds': rounds}
        done = subprocess.run([sys.executable, '-m', 'syno_nni.measure.worker'], input=json.dumps(job), text=True,
                              capture_output=True, env={**os.environ, 'OMP_NUM_THREADS': str(threads)}, check=False)
        if done.returncode:
            raise MeasureError(f'{runtime} cannot run the model: {done.stderr.strip()[-400:] or "no message"}')
        timings = json.loads(done.stdout.splitlines()[-1])
        return timings, [np.load(folder / f'{n}.npy') for n in range(len(models))]
