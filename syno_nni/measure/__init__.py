"""Latency measurement: two models in turns, in any of the runtimes."""

RUNTIMES = ('eager', 'inductor', 'onnx', 'openvino')
"""What models are measured in: each is a module here with a :class:`~syno_nni.measure.runtime.Runtime` called ``RUNTIME``."""
