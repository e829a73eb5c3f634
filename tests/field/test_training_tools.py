"""Retrofitted models in the tools that people train and deploy with; every test names a report where there is one."""
from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.nn.utils import prune
from torch.utils.checkpoint import checkpoint

import syno_nni as sn
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.retrofit.retrofit import filled_slots, retrofit

FIVE_AXES = ('out[n:N, o:C_out, h:H, w:H] = sum[r:g, c:C_in/g, i:k_1, j:k_1] in[n, r*(C_in/g) + c, unfold(h, i), '
             'shift(unfold(w, j), 1)] * w1[o, r, c, i, j]')
FOUR_AXES = 'out[n:N, o:C_out, h:H, w:W] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h,i), unfold(w,j)] * w1[o, c, i, j]'
TWO_WEIGHTS = ('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, d:g, i:k_1, j:k_1] in[n, c, shift(unfold(h, i), 1), unfold(w, j)] '
               '* w1[c, d, i] * w2[d, o, j]')
TOKENS = 'out[n:N, t:T, o:C_out] = sum[c:C_in, d:g] in[n, t, c] * w1[c, d] * w2[d, o]'


class Net(nn.Module):
    """A stem, a block with a strided convolution, a branch around it, and a head; any image size."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, 2, 1)
        self.norm = nn.BatchNorm2d(16)
        self.block = nn.Conv2d(16, 16, 3, padding=1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(self.down(self.stem(x))).relu()
        x = x + self.block(x)
        return self.head(x.mean((2, 3)))


def net(formula: str = FIVE_AXES, size: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return retrofit(Net(), formula, torch.zeros(1, 3, size, size), kinds=('conv3x3',)).eval()


def images(batch: int = 2, height: int = 16, width: int | None = None) -> torch.Tensor:
    generator = torch.Generator().manual_seed(batch * height)
    return torch.randn(batch, 3, height, width or height, generator=generator)


def plainly(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """What the model computes with every slot evaluated by its definition in float64."""
    def defined(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> torch.Tensor:
        (given,) = inputs
        layer = module.layer
        if module.pool is not None:
            given = nn.functional.avg_pool2d(given, module.stride, ceil_mode=True)
        elif module.offset is not None:  # zeros up to a multiple of the stride, of which the operator makes every second
            given = nn.functional.pad(given, (0, given.shape[3] % 2, 0, given.shape[2] % 2))
        sizes = {**layer.sizes, 'N': len(given), 'H': given.shape[2]}
        weights = [w.double().numpy() for w in layer.weights]
        result = torch.from_numpy(layer.op.reference(given.double().numpy(), weights, sizes))
        return (result + module.bias.view(-1, 1, 1)).to(output.dtype)
    handles = [m.register_forward_hook(defined) for m in filled_slots(model).values()]
    with torch.no_grad():
        result = model(x)
    for handle in handles:
        handle.remove()
    return result


def same(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-4) -> bool:
    return a.shape == b.shape and bool(torch.allclose(a.detach().double(), b.detach().double(), rtol=tolerance, atol=tolerance))


@pytest.mark.parametrize('formula', [FIVE_AXES, FOUR_AXES, TWO_WEIGHTS])
@pytest.mark.parametrize('conversion', [
    lambda m: m.to(memory_format=torch.channels_last), lambda m: m.to(memory_format=torch.channels_last_3d),
    lambda m: m.to('cpu', torch.float32, memory_format=torch.channels_last), lambda m: m.float(), lambda m: m.share_memory(),
])
def test_conversions_leave_the_weights_axes_alone(formula: str, conversion: Callable[[nn.Module], nn.Module]) -> None:
    """pytorch#77821: channels_last raises for a weight of five axes, which is no image."""
    model = net(formula)
    model.block.layer.weights[0].grad = torch.ones_like(model.block.layer.weights[0])
    x = images()
    want = model(x)
    for name in ('stem', 'down', 'block'):
        assert isinstance(model.get_submodule(name), FilledSlot) == (name in filled_slots(model))
    weights = [p.detach().clone() for p in filled_slots(model)['block'].parameters()]
    only_slots = nn.ModuleList(filled_slots(model).values())
    conversion(only_slots)
    assert same(model(x.to(memory_format=torch.channels_last)), want)
    for before, after in zip(weights, filled_slots(model)['block'].parameters()):
        assert torch.equal(before, after) and after.requires_grad and before.stride() == after.stride()
    assert model.block.layer.weights[0].grad.shape == model.block.layer.weights[0].shape


def test_a_whole_model_in_channels_last_trains_as_before() -> None:
    """pytorch#77821"""
    model, other = net(), net().to(memory_format=torch.channels_last)
    for m, x in ((model, images()), (other, images().to(memory_format=torch.channels_last))):
        m.train()(x).square().sum().backward()
    for a, b in zip(model.parameters(), other.parameters()):
        assert same(a.grad, b.grad, 1e-3)
    fused = nn.Sequential(model.block.layer.fuse()).to(memory_format=torch.channels_last)
    x = torch.randn(2, 16, 8, 8)
    assert same(fused(x), model.block.layer(x))


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = net()
    x = images()
    assert same(copy.deepcopy(model).to(dtype)(x.to(dtype)), plainly(model, x), 1e-5 if dtype == torch.float64 else 0.05)


def test_features_of_a_retrofit() -> None:
    """timm#1176: torchvision's feature extractor raised TraceError where the original passes."""
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    model = net()
    extractor = extraction.create_feature_extractor(model, ['down', 'block', 'head'])
    assert set(filled_slots(extractor)) == set(filled_slots(model))
    for batch, height, width in ((2, 16, 16), (1, 16, 16), (3, 24, 24), (2, 15, 20)):
        x = images(batch, height, width)
        assert same(extractor(x)['head'], model(x))
        assert extractor(x)['block'].shape[2:] == ((height + 1) // 2, (width + 1) // 2)
    train, evaluation = extraction.get_graph_node_names(model)
    assert 'block' in train and 'block' in evaluation


@pytest.mark.parametrize('name', ['resnet18', 'efficientnet_b0', 'vit_tiny_patch16_224'])
def test_traced_by_torch_fx(name: str) -> None:
    """timm#1176: the graph computes the same, at another batch size too, trains, and can be kept."""
    extraction = pytest.importorskip('torchvision.models.feature_extraction')
    torch.manual_seed(0)
    vit = name.startswith('vit')
    options = {'img_size': 64, 'depth': 2} if vit else {}
    model = timm.create_model(name, num_classes=4, **options)
    model = retrofit(model, TOKENS if vit else FIVE_AXES, torch.zeros(1, 3, 64, 64),
                     kinds=('linear',) if vit else ('conv3x3', 'pointwise'), on_misfit='keep').eval()
    last = [n for n, _ in model.named_children()][-1]
    extractor = extraction.create_feature_extractor(model, [last])
    for batch in (1, 3):
        assert same(extractor(images(batch, 64))[last], model(images(batch, 64)))
    if vit:
        return  # timm's blocks check shapes themselves under the plain tracer
    graph = torch.fx.symbolic_trace(model)
    assert same(graph(images(3, 64)), model(images(3, 64)))
    assert same(pickle.loads(pickle.dumps(graph))(images(1, 64)), model(images(1, 64)))
    assert dict(graph.named_parameters()).keys() == dict(model.named_parameters()).keys()
    graph.train()(images(3, 64)).sum().backward()
    assert all(m.layer.weights[0].grad is not None for m in filled_slots(graph).values())


def test_a_traced_layer_alone() -> None:
    """A layer, its deploy form and a slot are each one node, under the name that they have."""
    layer = net().block.layer
    x = torch.randn(2, 16, 8, 8)
    for module in (layer, layer.fuse(), net().block):
        graph = torch.fx.symbolic_trace(nn.Sequential(nn.ReLU(), module))
        assert [n.target for n in graph.graph.nodes if n.op == 'call_module'] == ['0', '1']
        assert same(graph(x), module(x.relu()))
        for size in (6, 9):
            other = torch.randn(1, 16, size, size)
            assert same(graph(other), module(other.relu()))


def test_traced_by_torch_jit() -> None:
    """A trace is for the size that it saw: right there at any batch size, and an error elsewhere, not another result."""
    model = net()
    traced = torch.jit.trace(model, images())
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    for graph in (traced, torch.jit.load(buffer)):
        for batch in (1, 2, 5):
            assert same(graph(images(batch)), plainly(model, images(batch)))
        for height, width in ((20, 20), (32, 32), (16, 32), (8, 8)):
            with pytest.raises(RuntimeError):
                graph(images(2, height, width))
    small = torch.jit.trace(model, images(2, 24))
    assert same(small(images(3, 24)), plainly(model, images(3, 24)))


@pytest.mark.slow
@pytest.mark.parametrize('strict', [True, False])
def test_exported_with_a_free_batch(strict: bool) -> None:
    model = net()
    batch = torch.export.Dim('batch', min=1, max=64)
    for size in (16, 24):
        graph = torch.export.export(model, (images(2, size),), dynamic_shapes=({0: batch},), strict=strict).module()
        assert same(graph(images(5, size)), plainly(model, images(5, size)))
        with pytest.raises((AssertionError, RuntimeError)):
            graph(images(2, size + 4))


@pytest.mark.slow
def test_compiled_for_several_image_sizes() -> None:
    torch._dynamo.reset()
    model = net()
    compiled = torch.compile(model, dynamic=True, fullgraph=True)
    for height, width in ((16, 16), (24, 24), (16, 16), (12, 20)):
        assert same(compiled(images(2, height, width)), model(images(2, height, width)))
    compiled.train()(images()).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


def test_image_sizes_of_a_retrofit() -> None:
    """Detection and segmentation feed images of any size and shape through the backbone."""
    model = net()
    for height, width in ((16, 16), (17, 17), (31, 31), (8, 8)):
        assert same(model(images(2, height, width)), plainly(model, images(2, height, width)))
    square, wide = net(FIVE_AXES), net(FIVE_AXES.replace('w:H', 'w:W'))
    wide.load_state_dict(square.state_dict())
    assert same(square(images(2, 16, 24)), wide(images(2, 16, 24)))


@pytest.mark.parametrize(('name', 'kinds', 'formula'), [
    ('resnet18', ('conv3x3',), FIVE_AXES), ('convnext_atto', ('pointwise', 'linear', 'conv'), TOKENS),
    ('mobilenetv3_small_100', ('pointwise',), FIVE_AXES),
])
def test_feature_maps_of_any_image(name: str, kinds: tuple[str, ...], formula: str) -> None:
    """``features_only`` as segmentation heads use it: maps have the original's shapes at every image size."""
    torch.manual_seed(0)
    original = timm.create_model(name, features_only=True).eval()
    model = retrofit(original, formula, torch.zeros(1, 3, 64, 64), kinds=kinds, on_misfit='keep').eval()
    assert filled_slots(model)
    with torch.no_grad():
        for height, width in ((64, 64), (96, 64), (100, 133), (75, 225)):
            want, got = original(images(1, height, width)), model(images(1, height, width))
            assert [m.shape for m in got] == [m.shape for m in want]
            assert all(bool(m.isfinite().all()) for m in got)


def test_averaged_weights() -> None:
    """Averages of weights, by torch and by timm, are copies that follow."""
    from timm.utils import ModelEmaV3
    model = net()
    averages: list[nn.Module] = [torch.optim.swa_utils.AveragedModel(model, use_buffers=True), ModelEmaV3(model, decay=0.5)]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1)
    averages[0].update_parameters(model)
    averages[1].update(model)
    x = images()
    for average in averages:
        module = average.module
        assert module.block.layer.weights[0] is not model.block.layer.weights[0]
        assert same(module(x), plainly(module, x))
    assert same(averages[0](x), model(x))
    torch.optim.swa_utils.update_bn([images(8)], averages[0])


@pytest.mark.parametrize('reentrant', [True, False])
def test_gradient_checkpointing(reentrant: bool) -> None:
    model, other = net().train(), net().train()
    x = images().requires_grad_()
    checkpoint(model, x, use_reentrant=reentrant).sum().backward()
    other(images()).sum().backward()
    for a, b in zip(model.parameters(), other.parameters()):
        assert same(a.grad, b.grad)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_mixed_precision(dtype: torch.dtype) -> None:
    model = net().train()
    with torch.autocast('cpu', dtype=dtype):
        loss = model(images()).float().square().mean()
    scaler = torch.amp.GradScaler('cpu')
    scaler.scale(loss).backward()
    for p in model.parameters():
        assert p.grad is not None and p.grad.dtype == torch.float32 and bool(p.grad.isfinite().all())
    with torch.autocast('cpu', dtype=dtype):
        got = model.eval()(images())
    assert same(got.float(), plainly(model, images()), 0.05)


def test_copies_and_files() -> None:
    model = net()
    x = images()
    model(images(2, 20))  # plans for other sizes travel along
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), torch.load(buffer, weights_only=False)):
        assert same(other(x), model(x)) and same(other(images(2, 20)), model(images(2, 20)))
        other.block.layer.weights[0].data.zero_()
    assert bool(model.block.layer.weights[0].any())


@pytest.mark.parametrize('assign', [False, True])
def test_state_round_trips(assign: bool) -> None:
    model, other = net(), net()
    with torch.no_grad():
        for p in other.parameters():
            p.mul_(2)
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    buffer.seek(0)
    other.load_state_dict(torch.load(buffer, weights_only=True), assign=assign)
    assert same(other(images()), model(images()))


def test_built_without_memory() -> None:
    """On the meta device, then filled: how large models and sharded trainers start."""
    model = net()
    with torch.device('meta'):
        empty = copy.deepcopy(model).to('meta')
        layer = sn.SynthesizedLayer(model.block.layer.op, model.block.layer.sizes)
        assert layer(torch.randn(2, 16, 8, 8)).shape == (2, 16, 8, 8)
    assert layer.weights[0].is_meta and empty(images().to('meta')).shape == (2, 5)
    empty.load_state_dict(model.state_dict(), assign=True)
    assert same(empty(images()), model(images()))
    other = copy.deepcopy(model).to('meta').to_empty(device='cpu')
    other.load_state_dict(model.state_dict())
    assert same(other(images()), model(images()))


def test_replicas() -> None:
    """What `nn.DataParallel` makes for every device: shallow copies with tensors for parameters."""
    model = net()
    twins = {name: module._replicate_for_data_parallel() for name, module in model.named_modules()}
    for name, module in model.named_modules():
        for child in module._modules:
            setattr(twins[name], child, twins[f'{name}.{child}' if name else child])
        for key, parameter in module._parameters.items():
            setattr(twins[name], key, None if parameter is None else parameter.detach() * 1)
        twins[name]._buffers = dict(module._buffers)
    assert same(twins[''](images()), model(images()))
    assert same(twins[''](images(1, 24)), model(images(1, 24)))


def test_functional_calls() -> None:
    """Per-sample gradients and meta-learning call modules with other parameters, batched by `torch.func`."""
    model = net()
    doubled = {name: p.detach() * 2 for name, p in model.named_parameters()}
    twice = copy.deepcopy(model)
    twice.load_state_dict(doubled, strict=False)
    assert same(torch.func.functional_call(model, doubled, images()), twice(images()))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(model, parameters, x[None]).square().sum()

    x = images(3)
    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    summed = torch.func.grad(lambda p: torch.func.functional_call(model, p, x).square().sum())(parameters)
    for name, gradient in gradients.items():
        assert same(gradient.sum(0), summed[name], 1e-3), name


def test_pruned_and_normed_weights() -> None:
    """Reparametrized weights (masks, norms) are read at every call."""
    layer = net().block.layer
    x = torch.randn(2, 16, 8, 8)
    prune.l1_unstructured(layer.weights, '0', 0.5)
    weights = [w.detach().double().numpy() for w in layer.tensors()]
    assert 0.4 < float((weights[0] == 0).mean()) < 0.6
    want = layer.op.reference(x.double().numpy(), weights, {**layer.sizes, 'N': 2})
    assert np.linalg.norm(layer(x).detach().double().numpy() - want) < 1e-5 * np.linalg.norm(want)
