"""The worker's half of OpenVINO."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import openvino


def load(paths: list[str], x: np.ndarray, threads: int) -> list[Callable[[], list[np.ndarray]]]:
    """What runs each model once on ``x``."""
    core = openvino.Core()
    config = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1',
              'INFERENCE_NUM_THREADS': str(threads)}

    def one(path: str) -> Callable[[], list[np.ndarray]]:
        compiled = core.compile_model(path, 'CPU', config)
        outputs = range(len(compiled.outputs))
        request = compiled.create_infer_request()
        request.set_input_tensor(openvino.Tensor(x, shared_memory=True))

        def run() -> list[np.ndarray]:
            request.infer()
            return [request.get_output_tensor(n).data for n in outputs]

        return run

    return [one(path) for path in paths]
