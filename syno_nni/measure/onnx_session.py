"""The worker's half of onnxruntime."""
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime


def load(paths: list[str], x: np.ndarray, threads: int) -> list[Callable[[], list[np.ndarray]]]:
    """What runs each model once on ``x``."""
    # One pool for all sessions: with a pool each, the idle one's threads spin on the cores that the other needs.
    onnxruntime.set_global_thread_pool_sizes(threads, 1)
    options = onnxruntime.SessionOptions()
    options.use_per_session_threads = False

    def one(path: str) -> Callable[[], list[np.ndarray]]:
        session = onnxruntime.InferenceSession(path, options, providers=['CPUExecutionProvider'])
        name = session.get_inputs()[0].name
        return lambda: session.run(None, {name: x})

    return [one(path) for path in paths]
