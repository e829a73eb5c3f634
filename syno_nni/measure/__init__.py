"""Latency measurement."""

IN_PROCESS = ('eager', 'inductor')
SEPARATE = ('onnx', 'openvino')
RUNTIMES = (*IN_PROCESS, *SEPARATE)
"""What models are measured in: torch's runtimes in this process, the others each in one of their own."""
