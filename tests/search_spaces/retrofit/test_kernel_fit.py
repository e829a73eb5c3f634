from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from syno_nni import OperatorSpace
from syno_nni.errors import SlotError
from syno_nni.operator import Operator, classics
from syno_nni.search_spaces import filled_slots, find_slots, retrofit
from syno_nni.search_spaces.coefficients import fitting, unfit
from syno_nni.search_spaces.filled_slot import FilledSlot
from syno_nni.search_spaces.retrofit import KernelFits
from syno_nni.search_spaces.retrofit.least_squares import fit_noise
from syno_nni.search_spaces.slots import bindings

from .test_retrofit import POINTWISE, Tail

HEAD = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in'
LAYERS = {
    'conv': ('conv2d', lambda: nn.Conv2d(8, 8, 3, padding=1), (8, 6, 6)),
    'small map': ('conv2d', lambda: nn.Conv2d(4, 8, 3, padding=1, bias=False), (4, 4, 4)),
    'strided': ('conv2d', lambda: nn.Conv2d(4, 8, 3, 2, 1), (4, 8, 8)),
    'odd map': ('conv2d', lambda: nn.Conv2d(4, 8, 3, 2, 1), (4, 7, 7)),
    'grouped': ('conv2d', lambda: nn.Conv2d(8, 8, 5, padding=2, groups=2), (8, 6, 6)),
    'depthwise': ('depthwise', lambda: nn.Conv2d(8, 8, 3, padding=1, groups=8), (8, 4, 4)),
    'pointwise': ('pointwise', lambda: nn.Conv2d(8, 8, 1), (8, 4, 4)),
    'strided pointwise': ('pointwise', lambda: nn.Conv2d(8, 8, 1, 2), (8, 8, 8)),
    'rectangle': ('conv2d_rectangular', lambda: nn.Conv2d(8, 8, 3, padding=1), (8, 4, 8)),
    'linear': ('linear', lambda: nn.Linear(8, 16), (6, 8)),
    'conv1d': ('conv1d', lambda: nn.Conv1d(8, 8, 3, padding=1), (8, 8)),
}
FORMULAS = {
    'no weight': f'{HEAD}] in[n, c, h, w]',
    'box': f'{HEAD}, i:k_1] in[n, c, unfold(h, i), w] * w1[o, c]',
    'nested windows': f'{HEAD}, i:k_1, j:k_1] in[n, c, unfold(unfold(h, i), j), w] * w1[o, c, i] * w2[o, j]',
    'channels that meet': f'{HEAD}, r:s, j:k_1] in[n, shift(c*s + r, 1)//s, h, unfold(w, j)] * w1[o, c, j] * w2[o, r]',
    'a window of channels': f'{HEAD}, i:k_1] in[n, unfold(c, i), h, w] * w1[o, i] * w2[c, i]',
    'a sum nothing sees': f'{HEAD}, d:s] in[n, c, h, w] * w1[o, c, d]',
    'a window of a weight': f'{HEAD}, i:k_1] in[n, c, h, w] * w1[o, unfold(c, i)] * w2[c, i]',
    'one reduction for both': f'{HEAD}*s] in[n, c//s, unfold(h, c%s), w] * w1[o, c]',
    'by position': f'{HEAD}] in[n, c, h, w] * w1[o, c, h%s] * w2[o, w//s]',
    'three weights': f'{HEAD}, i:k_1, j:k_1, d:s] in[n, c, unfold(h, i), unfold(w, j)] * w1[o, d] * w2[d, i, c] * w3[c, j]',
    'digits': f'{HEAD}, i:k_1] in[n, c, unfold(h, i), w] * w1[o, c//s] * w2[c, i, o%s]',
    'transposed': f'{HEAD}, i:k_1] in[n, c, unfold(w, i), h] * w1[o, c, i]',
}


def matrix(run, shape: tuple[int, ...]) -> torch.Tensor:
    """The linear part of an affine map, one row per input element."""
    x = torch.eye(math.prod(shape)).reshape(-1, *shape)
    with torch.no_grad():
        return (run(x) - run(torch.zeros_like(x[:1]))).reshape(len(x), -1)


def check(layer: nn.Module, op: Operator, slots, shape: tuple[int, ...]) -> float | None:
    """The error said is that of the two matrices with the weights handed out, and no worse than the program's own fit."""
    fits = KernelFits(Tail(layer), slots)
    quick = fits.errors(op)
    if not quick:
        assert unfit(op, slots[0])
        return None
    slot = FilledSlot.of(op, fitting(op, slots[0]))
    with torch.no_grad():
        for parameter, weight in zip(slot.layer.weights, fits.weights(op, 'layer'), strict=True):
            assert parameter.shape == weight.shape
            parameter.copy_(weight)
    want = matrix(layer, shape)
    true = float((matrix(slot, shape) - want).square().sum() / want.square().sum())
    error = fits.errors(op)['layer']
    assert error == pytest.approx(true, rel=1e-3, abs=1e-4), str(op)
    assert error <= quick['layer'] * 1.02 + 1e-4, str(op)
    if len(op.weights) == 1:
        assert quick['layer'] == pytest.approx(error, rel=0.02, abs=1e-4), str(op)
    return error


@pytest.mark.parametrize(('kind', 'striding'), [*((kind, 'auto') for kind in LAYERS), ('strided', 'pool'), ('odd map', 'pool'),
                                                ('strided pointwise', 'pool')])
def test_the_error_is_that_of_the_matrices(kind, striding):
    preset, make, shape = LAYERS[kind]
    torch.manual_seed(0)
    layer = make()
    slots, _ = find_slots(Tail(layer), (1, *shape), kinds='all', coefficients={'g': 4, 'k_2': 5}, striding=striding)
    space = OperatorSpace.preset(preset, bindings=bindings(slots))
    completer = space.completer(np.random.default_rng(5))
    drawn = [op for _ in range(2) if (op := completer.complete(space.root, thorough=False)) is not None]
    assert drawn
    for op in drawn:
        check(layer, op.canonical, slots, shape)


@pytest.mark.parametrize('name', FORMULAS)
@pytest.mark.parametrize('layer', [nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(4, 8, 3, 2, 1)])
def test_unusual_formulas(name, layer):
    torch.manual_seed(0)
    size = 4 * layer.stride[0]
    slots, _ = find_slots(Tail(layer), (1, layer.in_channels, size, size), coefficients={'g': 4})
    op = Operator.parse(FORMULAS[name])
    error = check(layer, op, slots, (layer.in_channels, size, size))
    assert error is not None
    if op.weights:
        slot = FilledSlot.of(op, fitting(op, slots[0]))
        torch.manual_seed(1)
        assert error <= 1.05 * fit_noise(layer, slot, seed=0, sweeps=12, iterations=24) + 0.01


@pytest.mark.parametrize('op', [classics.depthwise_separable(), classics.low_rank()])
def test_two_weights_are_fitted_as_well_as_singular_vectors_do(op):
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 8, 3, padding=1)
    slots, _ = find_slots(Tail(layer), (1, 8, 16, 16))
    w = layer.weight.detach()
    if op is not None and len(op.reductions) == 3:
        values = torch.linalg.svdvals(w.permute(1, 2, 3, 0).reshape(8, 9, 8))[:, 1:]
    else:
        values = torch.linalg.svdvals(w.permute(1, 0, 2, 3).reshape(8, 72))[4:]
    best = float(values.square().sum() / w.square().sum())
    assert KernelFits(Tail(layer), slots).errors(op)['layer'] == pytest.approx(best, rel=0.02)


class TestCache:
    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(*[nn.Conv2d(8, 8, 3, padding=1) for _ in range(3)], nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()).eval()

    def test_layers_of_one_shape_are_fitted_at_once_and_once(self, monkeypatch):
        from syno_nni.search_spaces.retrofit import kernel_fit
        built = []
        build = kernel_fit.build
        monkeypatch.setattr(kernel_fit, 'build', lambda *a: built.append(1) or build(*a))
        model = self.model()
        slots, _ = find_slots(model, (1, 8, 8, 8))
        fits = KernelFits(model, slots)
        op = classics.grouped_conv2d()
        errors = fits.errors(op, slots[:2])
        assert (list(errors), len(built)) == (['0', '1'], 1)
        assert fits.errors(op, slots[:2]) == errors
        assert len(built) == 1
        assert fits.errors(op).items() >= errors.items()
        assert len(built) == 3
        with torch.no_grad():
            model[0].weight *= torch.rand(8, 1, 1, 1)
        changed = fits.errors(op)
        assert len(built) == 4
        assert changed['0'] != errors['0']
        assert changed['1'] == errors['1']

    def test_filling_a_model(self):
        model = self.model()
        slots, _ = find_slots(model, (1, 8, 8, 8))
        fits = KernelFits(model, slots)
        op = classics.grouped_conv2d()
        errors = fits.errors(op)
        result = retrofit(model, op, slots=slots)
        assert fits.fill(result) == errors
        for name, slot in filled_slots(result).items():
            torch.testing.assert_close(list(slot.layer.weights), fits.weights(op, name), check_stride=False)
            assert torch.equal(slot.bias, model.get_submodule(name).bias)

    def test_giving_up_tells_a_bound(self):
        model = self.model()
        slots, _ = find_slots(model, (1, 8, 8, 8))
        fits, op = KernelFits(model, slots), Operator.parse(POINTWISE)
        bounds = fits.errors(op, give_up_above=0.1)
        errors = fits.errors(op)
        assert all(0.1 < bounds[name] <= errors[name] + 1e-6 for name in errors)
        assert fits.errors(op, give_up_above=0.99) == errors

    def test_where_it_does_not_fit_it_has_no_error(self):
        model = self.model()
        slots, _ = find_slots(model, (1, 8, 8, 8))
        fits = KernelFits(model, slots)
        same = Operator.parse('out[n:N, c:C, h:H, w:H] = in[n, c, h, w] * w1[c]')
        assert list(fits.errors(same)) in ([], ['0', '1', '2'])
        with pytest.raises(SlotError, match="no slot is called 'x'"):
            fits.weights(same, 'x')
