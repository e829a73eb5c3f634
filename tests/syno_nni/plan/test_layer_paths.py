"""One definition for everything: gradients, compilation, export, memory formats, reduced precision, deploy form."""
from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import syno_nni as sn
from syno_nni.errors import GraphError, SizeError
from syno_nni.plan.optimize import plans

from ...testing.published import NAMES, operator
from ...testing.random_operators import SIZES as RANDOM_SIZES
from ...testing.random_operators import random_operator

SIZES = {'N': 1, 'C_in': 16, 'C_out': 32, 'H': 14, 'g': 8, 'k_1': 3, 'k_2': 7, 's': 2}
TOGETHER = ['resnet-07754', 'resnet-07795', 'resnext29_2x64d-07970', 'efficientnet_v2_s-07971']


def reference(layer: sn.SynthesizedLayer, x: torch.Tensor) -> np.ndarray:
    weights = [w.detach().double().numpy() for w in layer.weights]
    return layer.op.reference(x.double().numpy(), weights, {**layer.sizes, 'N': len(x)})


def close(got: torch.Tensor, want: np.ndarray, tolerance: float) -> bool:
    return float(np.linalg.norm(got.detach().double().numpy() - want)) < tolerance * float(np.linalg.norm(want))


def make(name: str) -> tuple[sn.SynthesizedLayer, torch.Tensor]:
    torch.manual_seed(0)
    layer = sn.SynthesizedLayer(operator(name), SIZES)
    return layer, torch.randn(2, *layer.op.input_shape(SIZES)[1:])


class Together(torch.nn.Module):
    """The published operators in one model, so that one compilation tries all of them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(make(name)[0] for name in TOGETHER)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [layer(x) for layer in self.layers]


@pytest.mark.parametrize('seed', range(25))
def test_gradients_against_finite_differences(seed: int) -> None:
    op = random_operator(seed)
    layer = sn.SynthesizedLayer(op, RANDOM_SIZES).double()
    x = torch.randn(op.input_shape(RANDOM_SIZES), dtype=torch.float64, requires_grad=True)
    program = layer.plan.program
    assert torch.autograd.gradcheck(lambda x, *w: program(x, w), (x, *layer.weights), fast_mode=True)


@pytest.mark.parametrize('name', NAMES)
def test_every_weight_gets_a_gradient(name: str) -> None:
    layer, x = make(name)
    layer(x).square().sum().backward()
    assert all(w.grad is not None and bool(w.grad.abs().sum() > 0) for w in layer.weights)


@pytest.mark.parametrize('name', NAMES)
def test_memory_formats_and_precisions(name: str) -> None:
    layer, x = make(name)
    want = reference(layer, x)
    layer.eval()
    assert close(layer(x), want, 1e-5)
    assert close(layer(x.to(memory_format=torch.channels_last)), want, 1e-5)
    with torch.autocast('cpu', dtype=torch.bfloat16):
        assert close(layer(x), want, 0.03)
    assert close(copy.deepcopy(layer).bfloat16()(x.bfloat16()), want, 0.05)
    fused = layer.fuse()
    assert close(fused(x), want, 1e-5)
    assert not fused.training
    assert close(pickle.loads(pickle.dumps(layer))(x), want, 1e-5)


@pytest.mark.parametrize(('channels', 'window'), [(2, 32), (4, 16), (4, 24), (6, 16), (8, 8), (8, 12), (12, 8), (14, 16),
                                                  (8, 9)])
def test_wide_windows_of_few_channels_in_bfloat16(channels: int, window: int) -> None:
    """oneDNN's convolution for AMX is wrong at these sizes; layers avoid it (densenet121-07963 has 8 and 48)."""
    op = sn.Operator.parse('out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1] in[n, c, h, unfold(w, i)] * w1[o, c, i]')
    sizes = {'N': 1, 'C_in': channels, 'C_out': 16, 'H': 5, 'W': 9, 'k_1': window}
    torch.manual_seed(0)
    layer = sn.SynthesizedLayer(op, sizes)
    x = torch.randn(2, channels, 5, 9)
    want = reference(layer, x)
    for plan in plans(op, sizes):
        layer.plan = plan
        assert close(layer(x), want, 1e-5)
        assert close(copy.deepcopy(layer).bfloat16()(x.bfloat16()), want, 0.03)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            assert close(layer(x), want, 0.03)


def test_fused_by_timm() -> None:
    from timm.utils.model import reparameterize_model
    layer, x = make(NAMES[0])
    model = torch.nn.Sequential(torch.nn.ReLU(), layer).eval()
    deployed = reparameterize_model(model)
    assert not isinstance(deployed[1], sn.SynthesizedLayer)
    assert close(deployed(x), reference(layer, x.relu()), 1e-5)


def test_state_dict_round_trip() -> None:
    layer, x = make(NAMES[0])
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    other = sn.SynthesizedLayer(layer.op, SIZES)
    other.load_state_dict(torch.load(buffer, weights_only=True))
    assert torch.equal(other(x), layer(x))


def test_a_wrong_shape_is_refused() -> None:
    layer = sn.SynthesizedLayer(sn.Operator.parse('out[n:N, o:C_out, h:H] = sum[c:C_in] in[n, c, h] * w1[o, c]'), SIZES)
    with pytest.raises(GraphError, match=r'any, 16, 14.* got \[2, 15, 14\].* may change here, as no weight depends on them: H'):
        layer(torch.randn(2, 15, 14))
    with pytest.raises(GraphError, match='wanted 3 dimensions, not 4'):
        layer(torch.randn(2, 16, 14, 14))
    with pytest.raises(SizeError, match='C_in/k_2'):
        sn.SynthesizedLayer(sn.Operator.parse('out[n:N, h:H] = sum[c:C_in/k_2] in[n, c, h]'), SIZES)


@pytest.mark.slow
def test_compiled_as_one_graph() -> None:
    torch.manual_seed(0)
    model = Together()
    compiled = torch.compile(model, fullgraph=True)
    x = torch.randn(2, 16, 14, 14)
    for layer, got in zip(model.layers, compiled(x)):
        assert close(got, reference(layer, x), 1e-5)
    sum(y.square().mean() for y in compiled(x)).backward()
    assert all(w.grad is not None for w in model.parameters())


@pytest.mark.slow
def test_exported_with_a_free_batch() -> None:
    model = Together().eval()
    batch = torch.export.Dim('batch', min=1, max=64)
    exported = torch.export.export(model, (torch.randn(2, 16, 14, 14),), dynamic_shapes=({0: batch},))
    for size in (1, 5):
        x = torch.randn(size, 16, 14, 14)
        for layer, got in zip(model.layers, exported.module()(x)):
            assert close(got, reference(layer, x), 1e-5)


@pytest.mark.slow
def test_onnx_with_a_free_batch(tmp_path) -> None:
    pytest.importorskip('onnxscript')
    runtime = pytest.importorskip('onnxruntime')
    model = Together().eval()
    deployed = torch.nn.ModuleList(layer.fuse() for layer in model.layers)

    class Deployed(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = deployed

        def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
            return [layer(x) for layer in self.layers]

    path = tmp_path / 'model.onnx'
    batch = torch.export.Dim('batch', min=1, max=64)
    torch.onnx.export(Deployed().eval(), (torch.randn(2, 16, 14, 14),), path, dynamo=True, dynamic_shapes=({0: batch},))
    session = runtime.InferenceSession(str(path), providers=['CPUExecutionProvider'])
    for size in (1, 5):
        x = torch.randn(size, 16, 14, 14)
        for layer, got in zip(model.layers, session.run(None, {session.get_inputs()[0].name: x.numpy()})):
            assert close(torch.from_numpy(got), reference(layer, x), 1e-4)
