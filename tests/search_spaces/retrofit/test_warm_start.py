from __future__ import annotations

import pytest
import torch
from torch import nn

from syno_nni.errors import SlotError
from syno_nni.search_spaces import find_slots
from syno_nni.search_spaces.retrofit.retrofit import retrofit
from syno_nni.search_spaces.retrofit.warm_start import fit_activations, fit_kernels, recalibrate_batch_norm, warm_start

from .test_retrofit import CONV, CONV1D, GROUPED, LINEAR, POINTWISE, RECTANGULAR, TOKENS, Tail

SEPARABLE = ('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h, i), unfold(w, j)] '
             '* w1[c, i, j] * w2[o, c]')


class Small(nn.Module):
    """Convolutions without normalisation between them, so outputs can match exactly."""

    def __init__(self, **options) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1, **options), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


@pytest.mark.parametrize(('layer', 'shape', 'formula'), [
    (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 16, 16), CONV),
    (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 6, 6), CONV),
    (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 5, 7), RECTANGULAR),
    (nn.Conv2d(8, 16, 3, padding=1, groups=4), (2, 8, 6, 6), CONV),
    (nn.Conv2d(8, 16, 3, padding=1, groups=4), (2, 8, 6, 6), GROUPED.replace('/g', '/r')),
    (nn.Conv2d(8, 16, 1), (2, 8, 6, 6), CONV),
    (nn.Conv2d(8, 16, 1), (2, 8, 6, 6), LINEAR),
    (nn.Conv1d(8, 16, 3, padding=1), (2, 8, 12), CONV1D),
    (nn.Linear(8, 16), (2, 5, 8), TOKENS),
    (nn.Linear(8, 16), (2, 8), LINEAR),
    (nn.Linear(8, 16), (2, 6, 6, 8), POINTWISE),
    (nn.Linear(8, 16), (2, 18, 20, 8), POINTWISE.replace('w:H', 'w:W')),
    (nn.Linear(8, 16), (2, 18, 20, 8), TOKENS),
    (nn.Linear(8, 16), (2, 40, 8), TOKENS),
    (nn.Linear(8, 16), (2, 2, 3, 4, 8), LINEAR),
])
def test_an_operator_that_contains_the_layer_becomes_it(layer, shape, formula):
    model = Tail(layer)
    result = retrofit(model, formula, shape, kinds='all', coefficients={'r': 4})
    assert fit_kernels(model, result)['layer'] < 1e-8
    x = torch.randn(shape)
    torch.testing.assert_close(result(x), model(x), atol=1e-4, rtol=1e-4)


def test_the_best_approximation_of_a_kernel():
    """A pointwise operator can only keep the middle of a 3x3 kernel, so the rest of its energy is the error."""
    layer = nn.Conv2d(8, 16, 3, padding=1, bias=False)
    model = Tail(layer)
    result = retrofit(model, POINTWISE, (1, 8, 8, 8))
    middle = layer.weight.detach()[:, :, 1, 1]
    # A map of 8 sees a tap beside the middle 7 times in 8.
    part = torch.tensor([7 / 8, 1, 7 / 8])
    seen = layer.weight.detach().square().sum((0, 1)) * part.outer(part)
    error = fit_kernels(model, result)['layer']
    assert error == pytest.approx(float(1 - middle.square().sum() / seen.sum()), rel=0.01)
    torch.testing.assert_close(result(torch.ones(1, 8, 8, 8))[0, :, 4, 4], 2 * middle.sum(1))


@pytest.mark.parametrize('size', [8, 9, 40])
def test_pooling_for_a_stride_keeps_the_response_to_smooth_inputs(size):
    layer = nn.Conv2d(8, 16, 1, 2)
    model = Tail(layer)
    slots, _ = find_slots(model, (1, 8, size, size), striding='pool')
    result = retrofit(model, POINTWISE, slots=slots)
    assert fit_kernels(model, result)['layer'] > 0.3
    torch.testing.assert_close(result.layer.layer.weights[0], layer.weight[:, :, 0, 0])


def test_several_weights_take_turns():
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 16, 3, padding=1)
    model = Tail(layer)
    with torch.no_grad():  # a kernel that the operator can make
        layer.weight.copy_(torch.einsum('oc,cij->ocij', torch.randn(16, 8), torch.randn(8, 3, 3)))
    result = retrofit(model, SEPARABLE, (1, 8, 8, 8))
    start = [float(w.norm()) for w in result.layer.layer.weights]
    assert fit_kernels(model, result, sweeps=40)['layer'] < 1e-4
    growth = [float(w.norm()) / s for w, s in zip(result.layer.layer.weights, start, strict=True)]
    assert growth[0] == pytest.approx(growth[1], rel=1e-3)


@pytest.mark.parametrize('stride', [1, 2])
def test_activations_do_better_than_kernels_on_their_data(stride):
    torch.manual_seed(0)
    model = Small(stride=stride).eval()
    batches = [torch.randn(16, 4, 12, 12).cumsum(3) for _ in range(2)]
    result = retrofit(model, POINTWISE, (1, 4, 12, 12)).eval()

    def error(x):
        with torch.no_grad():
            want = model.body[0](x)
            return float((result.body[0](x) - want).square().sum() / want.square().sum())

    fit_kernels(model, result)
    before = error(torch.cat(batches))
    errors = fit_activations(model, result, batches)
    assert list(errors) == ['body.0', 'body.3']
    assert errors['body.0'] == pytest.approx(error(torch.cat(batches)[3::4]), rel=1e-3)
    assert error(torch.cat(batches)) < before
    assert max(errors.values()) < 1


def test_all_of_it_with_loader_batches():
    torch.manual_seed(0)
    model = Small().eval()
    batches = [(torch.randn(32, 4, 8, 8), torch.zeros(32))]
    recalibrate_batch_norm(model, batches)
    result = retrofit(model, CONV, (1, 4, 8, 8)).train()
    errors = warm_start(model, result, iter(batches))
    assert max(errors.values()) < 1e-6
    assert result.training
    assert not model.training
    torch.testing.assert_close(result.eval()(batches[0][0]), model(batches[0][0]), atol=1e-3, rtol=1e-3)


def test_batch_norm_statistics_are_those_of_the_data():
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout()).train()
    x = torch.randn(64, 3, 4, 4) * 3 + 1
    recalibrate_batch_norm(model, [x[:32], x[32:]])
    torch.testing.assert_close(model[0].running_mean, x.mean((0, 2, 3)), atol=1e-5, rtol=1e-5)
    assert model[0].momentum == 0.1
    assert model.training


def test_needs_a_retrofit_of_the_model():
    model = Small()
    with pytest.raises(SlotError, match='no filled slot'):
        warm_start(model, model)
    result = retrofit(model, CONV, (1, 4, 8, 8))
    with pytest.raises(SlotError, match='is this a retrofit of that model'):
        warm_start(nn.Sequential(nn.Conv2d(4, 4, 3)), result)
