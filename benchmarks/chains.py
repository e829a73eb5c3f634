"""Timing many layers of one shape in few models: a chain in which convolutions stand between them, profiled call by call.

A layer alone in a model pays for the session and never for the layout that its neighbours want. Here every layer stands
between two 1x1 convolutions, as in a network, and its time is the time from the end of the one to the start of the other:
changes of layout, the call of each step, and all that a runtime fuses or does not.
"""
from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

QUANTILE = 5
"""Of the runs of a chain, in percent: what else the machine does only ever makes a call slower."""
Gaps = Callable[['Chain', float], list[float]]


class Chain(nn.Module):
    """Layers from ``shape_in`` to ``shape_out`` (channels, height, width), with a mark before and after each.

    A mark is a 1x1 convolution; where layers stride, the map grows back between the mark behind one and that before the next.
    """

    def __init__(self, layers: Sequence[nn.Module], shape_in: Sequence[int], shape_out: Sequence[int]) -> None:
        super().__init__()
        self.grow = shape_in[1] // shape_out[1]
        self.layers = nn.ModuleList(layers)
        self.before = nn.ModuleList(nn.Conv2d(shape_out[0], shape_in[0], 1) for _ in layers)
        self.after = nn.ModuleList(nn.Conv2d(shape_out[0], shape_out[0], 1) for _ in layers)
        self.example = torch.randn(1, *shape_out)

    def forward(self, x: Tensor) -> Tensor:
        for before, layer, after in zip(self.before, self.layers, self.after, strict=True):
            if self.grow > 1:
                x = functional.interpolate(x, scale_factor=self.grow, mode='nearest')
            x = after(layer(before(x)).relu())
        return x

    @torch.no_grad()
    def calibrate(self) -> Chain:
        """Scales the marks so that all numbers on the way stay near one: very small ones are slow."""
        x = self.example
        for before, layer, after in zip(self.before, self.layers, self.after, strict=True):
            if self.grow > 1:
                x = functional.interpolate(x, scale_factor=self.grow, mode='nearest')
            x = layer(_unit(before, x)).relu()
            x = _unit(after, x)
        return self.eval()


def _unit(mark: nn.Module, x: Tensor) -> Tensor:
    y = mark(x)
    scale = 1 / y.std().clamp(1e-6)
    mark.weight.mul_(scale)
    mark.bias.mul_(scale)
    return mark(x)


def summary(runs: Sequence[Sequence[float]]) -> list[float]:
    """Milliseconds of each layer from its times in many runs."""
    return np.percentile(np.asarray(runs), QUANTILE, axis=0).tolist()


# ---- onnxruntime ----

def onnx_gaps(chain: Chain, seconds: float) -> list[float]:
    """Milliseconds of every layer by onnxruntime's profiler, one thread."""
    import onnx
    import onnxruntime

    from syno_nni.measure.onnx import export_onnx
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        export_onnx(chain, chain.example, folder / 'chain.onnx')
        model = onnx.load(folder / 'chain.onnx')
        _name_marks(model)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / 'profile')
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=['CPUExecutionProvider'])
        feed = {session.get_inputs()[0].name: chain.example.numpy()}
        repeat(lambda: session.run(None, feed), seconds)
        events = json.loads(Path(session.end_profiling()).read_text())
    return summary(_onnx_runs(events, len(chain.layers)))


def repeat(call: Callable[[], object], seconds: float, least: int = 20, most: int = 300) -> None:
    started = time.monotonic()
    for n in range(most):
        if n >= least and time.monotonic() - started > seconds:
            return
        call()


def _name_marks(model: object) -> None:
    """Names marks after what they are; the value that they write too, after which onnxruntime names what it makes of them."""
    renamed: dict[str, str] = {}
    graph = model.graph
    for node in graph.node:
        for at, value in enumerate(node.input):
            node.input[at] = renamed.get(value, value)
        for place in ('before', 'after'):
            found = [v for v in node.input[1:2] if node.op_type == 'Conv' and v.startswith(f'{place}.')]
            if found:
                node.name = f'mark_{place}_{found[0].split(".")[1]}_'
                renamed[node.output[0]] = node.name
                node.output[0] = node.name
    for output in graph.output:
        output.name = renamed.get(output.name, output.name)


def _onnx_runs(events: list[dict], layers: int) -> list[list[float]]:
    runs: list[list[float]] = []
    starts: dict[str, float] = {}
    steps = [e for e in events if e.get('cat') == 'Node' and e['name'].endswith('_kernel_time')]
    for event in sorted(steps, key=lambda e: e['ts']):
        if 'mark_' in event['name']:
            place, number = event['name'].split('mark_')[1].split('_')[:2]
            if place == 'before':
                if number == '0':
                    runs.append([float('nan')] * layers)
                starts[number] = event['ts'] + event['dur']
            else:
                runs[-1][int(number)] = (event['ts'] - starts[number]) / 1e3
    return runs[5:]


# ---- eager torch ----

def eager_gaps(chain: Chain, seconds: float) -> list[float]:
    """Milliseconds of every layer with its relu in processor time of one thread: what else the machine does is not in it."""
    runs: list[list[float]] = []

    def run() -> None:
        x, spent = chain.example, []
        for before, layer, after in zip(chain.before, chain.layers, chain.after, strict=True):
            if chain.grow > 1:
                x = functional.interpolate(x, scale_factor=chain.grow, mode='nearest')
            x = before(x)
            started = time.thread_time_ns()
            x = layer(x).relu()
            spent.append((time.thread_time_ns() - started) / 1e6)
            x = after(x)
        runs.append(spent)

    with torch.inference_mode():
        repeat(run, seconds)
    return summary(runs[5:])


# ---- OpenVINO ----

COMPILED = 5
"""OpenVINO's counters are averages over all runs of a compiled model: so several are compiled, and the quietest one counts."""
SHORT_MS = 0.3
"""Averages are in whole microseconds. Layers that take longer than this are seldom left alone for all runs: of these single
runs are told apart by how the average moves."""


def openvino_gaps(chain: Chain, seconds: float) -> list[float]:
    """Milliseconds of every layer by OpenVINO's counters, one thread: the steps between two marks."""
    import openvino
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
    with torch.no_grad():
        decoder = TorchScriptPythonDecoder(chain, example_input=chain.example)
    frontend = FrontEndManager().load_by_framework('pytorch')
    model = frontend.convert(frontend.load(decoder))
    model.reshape({model.inputs[0]: list(chain.example.shape)})
    config = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY', 'NUM_STREAMS': '1',
              'INFERENCE_NUM_THREADS': '1', 'PERF_COUNT': 'YES'}
    core, found = openvino.Core(), []
    for _ in range(COMPILED):
        request = core.compile_model(model, 'CPU', config).create_infer_request()
        request.set_input_tensor(openvino.Tensor(chain.example.numpy().copy()))
        repeat(request.infer, seconds / COMPILED)
        found.append(_openvino_gaps(request.get_profiling_info(), len(chain.layers)))
    average = np.min(found, axis=0)
    if average.max() < SHORT_MS:
        return average.tolist()
    request = core.compile_model(model, 'CPU', config).create_infer_request()
    request.set_input_tensor(openvino.Tensor(chain.example.numpy().copy()))
    averages: list[list[float]] = []

    def run() -> None:
        request.infer()
        averages.append(_openvino_gaps(request.get_profiling_info(), len(chain.layers)))

    repeat(run, seconds)
    totals = np.array(averages) * np.arange(1, len(averages) + 1)[:, None]
    single = np.percentile(np.diff(totals, axis=0)[3:], 25, axis=0)
    return np.where(average < SHORT_MS, average, np.clip(single, SHORT_MS / 2, average)).tolist()


def _openvino_gaps(steps: Sequence[object], layers: int) -> list[float]:
    times, open_ = [float('nan')] * layers, None
    for step in steps:
        name = step.node_name
        if name.startswith('__module.before.'):
            if '_acdb_' not in name and step.node_type == 'Convolution':
                open_ = int(name.split('.')[2].split('/')[0])
                times[open_] = 0.0
                continue
        if name.startswith('__module.after.') and step.node_type == 'Convolution':
            open_ = None
        if open_ is not None and 'EXECUTED' in str(step.status):
            # Counters are whole microseconds, rounded down.
            times[open_] += step.real_time.total_seconds() * 1e3 + 0.5e-3
    return times


# ---- Inductor ----

def inductor_gaps(chain: Chain, seconds: float) -> list[float]:
    """Milliseconds of every layer by torch's profiler: from the end of one mark to the start of the next."""
    import torch._inductor.config as config
    from torch.profiler import ProfilerActivity, profile
    torch._dynamo.reset()
    with torch.inference_mode(), config.patch(freezing=True, compile_threads=1):
        compiled = torch.compile(chain, dynamic=False)
        for _ in range(3):
            compiled(chain.example)
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
            repeat(lambda: compiled(chain.example), seconds, most=60)
    marks = sorted((e.time_range.start, e.time_range.end) for e in profiler.events()
                   if e.name == 'mkldnn::_convolution_pointwise' and len(e.input_shapes) > 2 and e.input_shapes[2])
    pairs = 2 * len(chain.layers)
    if not marks or len(marks) % pairs:
        raise RuntimeError(f'{len(marks)} marks of {len(chain.layers)} layers: some were compiled to something else')
    return summary([[(marks[at + 2 * n + 1][0] - marks[at + 2 * n][1]) / 1e3 for n in range(len(chain.layers))]
                    for at in range(0, len(marks), pairs)][3:])


GAPS: dict[str, Gaps] = {'onnx': onnx_gaps, 'eager': eager_gaps, 'openvino': openvino_gaps, 'inductor': inductor_gaps}
"""Milliseconds of every layer of a chain, from runs that take about so many seconds; by runtime."""
