"""A retrofit leaves torch: exported, converted, quantized, compared in another runtime."""
from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from syno_nni.errors import GraphError, MeasureError, SlotError
from syno_nni.measure.latency import measure_pair
from syno_nni.measure.onnx import export_onnx
from syno_nni.measure.runtime import Rounds, Runtime, Timed
from syno_nni.operator import classics
from syno_nni.search_spaces import filled_slots, find_slots, retrofit

SHORT = {'min_rounds': 2, 'max_rounds': 2, 'seconds': 0.01, 'warmup': 1, 'threads': 1}
LINEAR = 'out[n:N, o:C_out] = sum[c:C_in] in[n, c] * w1[o, c]'
X = torch.randn(1, 8, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two convolutions and a classifier, in front of ``pack``, which makes the output of logits and a map."""

    def __init__(self, pack=lambda logits, features: logits) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 5)
        self.pack = pack

    def forward(self, x):
        x = self.b(self.a(x).relu()).relu()
        return self.pack(self.head(x.mean((2, 3))), x)


PACKS = {'dict': lambda logits, features: {'logits': logits, 'features': features},
         'reversed dict': lambda logits, features: {'z': features, 'a': logits},
         'tuple': lambda logits, features: (logits, features),
         'nested': lambda logits, features: (logits, {'maps': [features, features * 2]})}


def pair(pack) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = Net(PACKS[pack]).eval()
    return model, retrofit(model, classics.conv2d(), X)


@pytest.fixture(autouse=True)
def quiet(tmp_path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr('syno_nni.measure.lock.lock_path', lambda: tmp_path / 'lock')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the exporters deprecate parts of themselves
        yield


@pytest.mark.parametrize('pack', PACKS)
def test_values_that_are_not_finite_are_seen_wherever_they_are(pack):
    """vision#2311, ipex-llm#8044: of a model that returns a dictionary nothing was looked at, so one that computes NaN got a
    latency; of a tuple only the first tensor."""
    model, result = pair(pack)
    assert measure_pair(result, model, X, **SHORT).speedup > 0
    with torch.no_grad():
        result.b.layer.weights[0].fill_(float('nan'))
    with pytest.raises(MeasureError, match='the candidate returns values that are not finite'):
        measure_pair(result, model, X, **SHORT)


class Wrong(Runtime):
    """Computes what torch does but for one number in one tensor, and hands tensors back in reverse order."""
    name = 'onnx'

    def __init__(self, tensor: int | None) -> None:
        self.tensor = tensor

    def time(self, models, example, *, threads: int, rounds: Rounds) -> Timed:
        from syno_nni.nested import tensors
        outputs = []
        for model in models:
            arrays = [t.detach().numpy().copy() for t in tensors(model(example))]
            if self.tensor is not None:
                arrays[self.tensor].flat[0] += 1
            outputs.append(arrays[::-1])
        return Timed([[1.0, 1.0], [2.0, 2.0]], outputs)


@pytest.mark.parametrize('pack', PACKS)
@pytest.mark.parametrize('tensor', [None, 0, 1])
def test_all_outputs_are_compared_in_another_runtime(pack, tensor, monkeypatch: pytest.MonkeyPatch):
    """onnx#4087, openvino#26457, onnxruntime#26504: exporters change one output of several, or their order."""
    monkeypatch.setattr('syno_nni.measure.latency.time_in', lambda name, *args, **options: Wrong(tensor).time(*args, **options))
    model, result = pair(pack)
    if tensor is None:
        assert measure_pair(result, model, X, runtime='onnx', **SHORT).speedup == 2
    else:
        with pytest.raises(MeasureError, match='computes something else in onnx'):
            measure_pair(result, model, X, runtime='onnx', **SHORT)


@pytest.mark.slow
@pytest.mark.parametrize('runtime', ['inductor', 'onnx', 'openvino'])
@pytest.mark.parametrize('pack', PACKS)
def test_models_with_several_outputs_run_in_every_runtime(pack, runtime):
    """ipex-llm#8044, rf-detr#1238: dictionaries, tuples and nests of them, through the real exporters."""
    from syno_nni.measure.runtimes import missing
    if missing(runtime):
        pytest.skip(missing(runtime))
    model, result = pair(pack)
    assert measure_pair(result, model, X, runtime=runtime, **SHORT).speedup > 0


def test_sixteen_bits_differ_by_their_rounding():
    """onnx#4087, sibling: of bfloat16 models a compiler rounds elsewhere, which was called another result."""
    from syno_nni.measure.latency import _compare
    want = torch.randn(64, dtype=torch.bfloat16)
    got = want.float().numpy()
    _compare([want], [got * (1 + 4e-3)], 'candidate', 'inductor')
    with pytest.raises(MeasureError):
        _compare([want], [got * 1.1], 'candidate', 'inductor')
    with pytest.raises(MeasureError):
        _compare([want.float()], [got * (1 + 4e-3)], 'candidate', 'inductor')


def test_inputs_that_cannot_be_measured_are_refused_in_words():
    """onnx#4087, openvino#19555: several inputs, and types that a runtime has not."""
    model, result = pair('tuple')
    with pytest.raises(MeasureError, match='one tensor, got tuple: wrap'):
        measure_pair(result, model, (X, X), **SHORT)
    with pytest.raises(MeasureError, match='pass model.float'):
        measure_pair(result.bfloat16(), model.bfloat16(), X.bfloat16(), runtime='openvino', **SHORT)


def vit() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model('vit_tiny_patch16_224', img_size=32, patch_size=8, depth=1, embed_dim=16, num_heads=2,
                             num_classes=5).eval()


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model('resnet10t', channels=[8, 8, 8, 8], stem_width=8, num_classes=5).eval()


@pytest.mark.parametrize(('make', 'op'), [(vit, LINEAR), (resnet, classics.operator_2())])
def test_any_batch_size_after_export(make, op):
    """pytorch#157621, pytorch#149065, rf-detr#949: an export with a dynamic batch that has the example's size after all."""
    model = make()
    images = torch.randn(2, 3, 32, 32)
    result = retrofit(model, op, images, coefficients={'g': 2})
    program = torch.export.export(result, (images,), dynamic_shapes=({0: torch.export.Dim('batch', min=1, max=64)},))
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, 32, 32)
        torch.testing.assert_close(program.module()(x), result(x), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(('make', 'op'), [(vit, LINEAR), (resnet, classics.operator_2())])
def test_onnx_of_any_batch_and_its_quantization(make, op, tmp_path: Path):
    """anomalib#2338, table-transformer#179, FasterViT#12: one ONNX file for all batch sizes; and int8 weights in it."""
    onnxruntime = pytest.importorskip('onnxruntime')
    quantization = pytest.importorskip('onnxruntime.quantization')
    result = retrofit(make(), op, (1, 3, 32, 32), coefficients={'g': 2})
    export_onnx(result, torch.randn(1, 3, 32, 32), tmp_path / 'model.onnx', free_batch=True)
    quantization.quantize_dynamic(tmp_path / 'model.onnx', tmp_path / 'int8.onnx')
    for name, tolerance in (('model', 1e-4), ('int8', 0.1)):
        session = onnxruntime.InferenceSession(tmp_path / f'{name}.onnx', providers=['CPUExecutionProvider'])
        for batch in (1, 3):
            x = torch.randn(batch, 3, 32, 32)
            want = result(x).detach().numpy()
            got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
            assert np.abs(got - want).max() < tolerance * np.abs(want).max()


def quantized(model: nn.Module) -> nn.Module:
    quantization = pytest.importorskip('torch.ao.quantization')
    if 'fbgemm' not in torch.backends.quantized.supported_engines and 'x86' not in torch.backends.quantized.supported_engines:
        pytest.skip('no engine for quantized layers')
    return quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


def test_quantizing_what_is_left_of_a_retrofit():
    """ao#2241, nngeometry#170: dynamic quantization swaps the linear layers that are left, and operators stay as they are."""
    model = vit()
    result = retrofit(model, {'blocks.*.mlp.*': LINEAR}, (1, 3, 32, 32))
    small = quantized(result)
    assert filled_slots(small).keys() == filled_slots(result).keys()
    assert 'quantized' in type(small.blocks[0].attn.qkv).__module__
    x = torch.randn(2, 3, 32, 32)
    assert float((small(x) - result(x)).norm() / result(x).norm()) < 0.05


def test_quantized_layers_are_no_slots():
    """ao#771, pytorch#23128: a quantized model has no layer with numbers that an operator could be fitted to."""
    small = quantized(nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU()))
    assert find_slots(small, (2, 8), kinds='all') == ([], [])
    with pytest.raises(SlotError, match='has no slot'):
        retrofit(small, LINEAR, (2, 8))


def test_scripting_says_what_to_use_instead():
    """pytorch#42793's neighbours: ``torch.jit.script`` ended in a bare 'Unknown type annotation'; tracing works."""
    model = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()).eval()
    result = retrofit(model, classics.conv2d(), (1, 8, 8, 8))
    before = dict(result.named_modules())
    layer = result[0].layer
    for module in (result, layer, layer.fuse()):
        with pytest.raises(GraphError, match=r'torch.jit.trace\(model, example\)'):
            torch.jit.script(module)
    assert dict(result.named_modules()) == before
    x = torch.randn(1, 8, 8, 8)
    torch.testing.assert_close(torch.jit.trace(result, x)(x), result(x))
