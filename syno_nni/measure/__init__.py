"""Latency measurement: two models in turns, in any of the runtimes."""

from typing import Literal, get_args

RuntimeName = Literal['eager', 'inductor', 'onnx', 'openvino']
RUNTIMES: tuple[str, ...] = get_args(RuntimeName)
"""What models are measured in: each is a module here with a :class:`~syno_nni.measure.runtime.Runtime` called ``RUNTIME``."""
