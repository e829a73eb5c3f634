"""The process that onnxruntime or OpenVINO runs in: reads a job from standard input, prints timings.

    python -m syno_nni.measure.worker < job.json
"""
from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from .turns import take_turns

Run = Callable[[], np.ndarray]


def main() -> int:
    job = json.load(sys.stdin)
    folder = Path(job['folder'])
    x = np.load(folder / 'input.npy')
    runs = (_onnx if job['runtime'] == 'onnx' else _openvino)(job['models'], x, job['threads'])
    for n, run in enumerate(runs):
        np.save(folder / f'{n}.npy', run())
    print(json.dumps(take_turns(runs, **job['rounds'])))
    return 0


def _onnx(paths: list[str], x: np.ndarray, threads: int) -> list[Run]:
    import onnxruntime
    # One pool for all sessions: with a pool each, the idle one's threads spin on the cores that the other needs.
    onnxruntime.set_global_thread_pool_sizes(threads, 1)
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False

    def load(path: str) -> Run:
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: x})[0]

    return [load(path) for path in paths]


def _openvino(paths: list[str], x: np.ndarray, threads: int) -> list[Run]:
    import openvino
    core = openvino.Core()
    config: dict[str, Any] = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1',
                              'INFERENCE_NUM_THREADS': str(threads)}

    def load(path: str) -> Run:
        request = core.compile_model(path, 'CPU', config).create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

        def run() -> np.ndarray:
            request.infer()
            return request.get_output_tensor(0).data

        return run

    return [load(path) for path in paths]


if __name__ == '__main__':
    sys.exit(main())
