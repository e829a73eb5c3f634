"""Reasons in the search for slots are true and the same at every call."""
from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from syno_nni.errors import SlotError
from syno_nni.operator import classics
from syno_nni.search_spaces import filled_slots, find_slots, retrofit
from syno_nni.search_spaces.retrofit.warm_start import fit_activations, warm_start

SHAPE = (2, 8, 8, 8)


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8)

    def forward(self, x):
        return x + self.norm(self.conv(x)).relu()


class Deep(nn.Module):
    """Eight blocks, each of which training may drop."""

    def __init__(self, drop=None) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(8))
        self.drop = drop

    def forward(self, x):
        for block in self.blocks:
            if self.training and self.drop is not None and self.drop():
                continue
            x = block(x)
        return x


def names(model: nn.Module, shape=SHAPE, **options) -> list[str]:
    return [s.name for s in find_slots(model, shape, **options)[0]]


ALL = [f'blocks.{n}.conv' for n in range(8)]


@pytest.mark.parametrize('method', [
    lambda m: prune.l1_unstructured(m, 'weight', 0.3), lambda m: prune.identity(m, 'weight'),
    lambda m: prune.ln_structured(m, 'weight', 0.3, n=2, dim=0)])
def test_pruned_layers_have_one_true_reason(method):
    """pytorch#37138: other layers at each call were 'also used outside this layer, by batch_norm'."""
    model = Deep()
    for block in model.blocks[:5]:
        method(block.conv)
    for _ in range(5):
        slots, excluded = find_slots(model, SHAPE)
        assert [s.name for s in slots] == ALL[5:]
        assert [e.name for e in excluded] == ALL[:5]
        assert all('it is pruned' in e.reason for e in excluded)
    result = retrofit(model, classics.conv2d(), SHAPE)
    assert list(filled_slots(result)) == ALL[5:]


def test_parametrized_layers_have_one_true_reason():
    """pytorch#37138, sibling: weights that a parametrization or an old weight norm computes at each access."""
    model = Deep()
    nn.utils.parametrizations.weight_norm(model.blocks[0].conv)
    nn.utils.parametrizations.orthogonal(model.blocks[1].conv)
    with pytest.warns(FutureWarning):
        nn.utils.weight_norm(model.blocks[2].conv)
    for _ in range(5):
        slots, excluded = find_slots(model, SHAPE)
        assert [s.name for s in slots] == ALL[3:]
        assert not [e for e in excluded if 'outside' in e.reason]


def test_shared_parameters_are_used_outside():
    """pytorch#37138, sibling: where the reason is true it stays: two layers with one parameter."""
    model = Deep()
    model.blocks[0].conv.weight = model.blocks[1].conv.weight
    slots, excluded = find_slots(model, SHAPE)
    assert [s.name for s in slots] == ALL[2:]
    assert all('used outside this layer, by conv2d' in e.reason for e in excluded)


@pytest.mark.parametrize('wrap', [
    torch.compile, nn.DataParallel, lambda m: torch.compile(nn.DataParallel(m)), lambda m: nn.DataParallel(torch.compile(m))])
def test_wrappers_are_looked_through(wrap):
    """timm#1566: a compiled model had no slot, for an untrue reason."""
    model = Deep().eval()
    wrapped = wrap(model)
    assert names(wrapped) == ALL
    result = retrofit(wrapped, classics.conv2d(), SHAPE)
    assert list(filled_slots(result)) == ALL
    assert type(result) is Deep
    assert result(torch.zeros(SHAPE)).shape == SHAPE
    assert not filled_slots(model)


def test_compiled_parts_and_models_compiled_in_place():
    """timm#1566, siblings: ``model.compile()``, and a compiled block inside a model."""
    model = Deep().eval()
    model.compile()
    assert names(model) == ALL
    model = Deep().eval()
    model.blocks[3] = torch.compile(model.blocks[3])
    assert len(names(model)) == 8


def test_distributed_data_parallel_is_looked_through(tmp_path):
    """timm#1566, sibling: a model in DistributedDataParallel."""
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        assert names(nn.parallel.DistributedDataParallel(Deep())) == ALL
    finally:
        torch.distributed.destroy_process_group()


def test_models_that_cannot_be_looked_into_say_what_to_pass():
    """timm#1566, siblings: TorchScript, and layers that have no shapes yet."""
    with pytest.raises(SlotError, match='pass the model that it was made from'):
        find_slots(torch.jit.trace(Deep().eval(), torch.zeros(SHAPE)), SHAPE)
    lazy = nn.Sequential(nn.LazyConv2d(8, 3, padding=1), nn.ReLU())
    with pytest.raises(SlotError, match='run the model once first'):
        find_slots(lazy, SHAPE)
    assert isinstance(lazy[0], nn.LazyConv2d)


@pytest.mark.parametrize('drop', [
    lambda: torch.rand(1).item() < 0.5, lambda: torch.rand(()) < 0.9, lambda: torch.rand(1) > 0.02,
    lambda: bool(torch.bernoulli(torch.tensor(0.95))), lambda: bool(torch.empty(1).uniform_() < 0.5),
    lambda: random.random() < 0.5, lambda: np.random.rand() < 0.5, lambda: torch.randint(0, 2, ()) == 0])
def test_layers_that_training_drops_at_random_are_slots(drop):
    """pytorch#42793: 3 or 4 of 8 slots, different by seed, 'does not run in training'."""
    for seed in range(3):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        assert names(Deep(drop)) == ALL


def test_layers_that_training_never_reaches_are_none():
    """pytorch#42793, the other side: a branch that training does not take is not dropped at random."""
    slots, excluded = find_slots(Deep(lambda: True), SHAPE)
    assert not slots
    assert all(e.reason == 'it does not run in training' for e in excluded)


def test_the_caller_s_state_is_untouched():
    """pytorch#42793: random states, modes, buffers, gradients and hooks are those of before."""
    model = Deep(lambda: torch.rand(()) < 0.5).train()
    model.blocks[2].norm.eval()
    model.blocks[1].conv.weight.requires_grad_(False)
    model.register_buffer('calls', torch.zeros(()))
    forward = Deep.forward

    class Counts(Deep):
        def forward(self, x):
            self.calls = self.calls + 1
            self.blocks[0].norm.running_mean += 1
            return forward(self, x)

    model.__class__ = Counts
    before = {k: v.clone() for k, v in model.state_dict().items()}
    buffer = model.calls
    torch.manual_seed(3)
    np.random.seed(3)
    random.seed(3)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    find_slots(model, SHAPE)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert model.calls is buffer
    assert [m.training for m in model.modules()] == [m is not model.blocks[2].norm for m in model.modules()]
    assert not model.blocks[1].conv.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


class Always(Deep):
    """The eight blocks, dropped at random in every mode, as by code that forgets to ask for the mode."""

    def forward(self, x):
        for block in self.blocks:
            if not self.drop():
                x = block(x)
        return x


class Holds(Always):
    """The same with a generator of its own."""

    def __init__(self, generator) -> None:
        super().__init__(self.draw)
        self.generator = generator

    def draw(self) -> bool:
        own = self.generator
        return (float(torch.rand(1, generator=own)) if isinstance(own, torch.Generator) else own.random()) < 0.5


@pytest.mark.parametrize('drop', [
    lambda: torch.rand(1).item() < 0.5, lambda: torch.rand(()) < 0.99, lambda: random.random() < 0.5,
    lambda: np.random.rand() < 0.5, lambda: torch.randint(0, 2, ()) == 0])
def test_layers_that_are_dropped_in_evaluation_too_are_slots(drop):
    """pytorch#42793, sibling: a draw that does not ask for the mode gave other slots, for untrue reasons, by seed."""
    for seed in range(3):
        torch.manual_seed(seed)
        np.random.seed(seed)
        random.seed(seed)
        model = Always(drop).eval()
        states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
        slots, excluded = find_slots(model, SHAPE)
        assert [s.name for s in slots] == ALL and not excluded
        assert sum(s.share for s in slots) <= 1 + 1e-9
        assert torch.equal(torch.get_rng_state(), states[0])
        assert (np.random.get_state()[1] == states[1]).all() and random.getstate() == states[2]


def test_what_no_draw_reaches_has_a_true_reason():
    for seed in range(2):
        torch.manual_seed(seed)
        slots, excluded = find_slots(Always(lambda: torch.randint(0, 9, ()) >= 0), SHAPE)
        assert not slots and {e.reason for e in excluded} == {
            'none of 8 runs of the model, which draws random numbers, called it on this input'}


@pytest.mark.parametrize('make', [
    lambda seed: torch.Generator().manual_seed(seed), random.Random, np.random.RandomState, np.random.default_rng])
def test_generators_that_a_model_holds_are_left_as_they_were(make):
    """pytorch#42793, sibling: a generator of the model's own."""
    for seed in range(3):
        model, twin = Holds(make(seed)).eval(), Holds(make(seed))
        assert names(model) == ALL
        assert [model.draw() for _ in range(20)] == [twin.draw() for _ in range(20)]


def test_a_model_that_drops_layers_always_is_filled_and_fitted():
    """pytorch#42793, sibling: 'held outside its registered modules' was said of layers that a draw had left out."""
    model = Always(lambda: torch.rand(()) < 0.5).eval()
    result = retrofit(model, classics.conv2d(), SHAPE)
    assert list(filled_slots(result)) == ALL
    errors = fit_activations(model, result, [torch.randn(16, *SHAPE[1:])])
    assert sorted(errors) == ALL and max(errors.values()) < 1e-2
    x = torch.randn(SHAPE)
    for seed in range(3):
        torch.manual_seed(seed)
        want = model(x)
        torch.manual_seed(seed)
        assert (result(x) - want).norm() < 0.1 * want.norm()


def test_a_compiled_layer_is_filled_inside():
    """timm#1566, sibling: ``net[0] = torch.compile(net[0])`` was a slot, and filling it failed for an untrue reason."""
    net = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1), nn.ReLU()).eval()
    plain = [*net]
    net[0] = torch.compile(net[0], backend='eager')
    assert names(net) == ['0._orig_mod', '2']
    for check in (True, False):
        result = retrofit(net, classics.conv2d(), SHAPE, check=check)
        assert list(filled_slots(result)) == ['0._orig_mod', '2']
        warm_start(net, result)
        x = torch.randn(SHAPE)
        torch.testing.assert_close(result(x), nn.Sequential(*plain)(x), atol=1e-4, rtol=1e-4)
    assert not filled_slots(net) and net[0]._orig_mod is plain[0]
    with torch.no_grad():
        for weight in result[0]._orig_mod.layer.weights:
            weight.zero_()
        assert not torch.allclose(result(x), net(x))


class Reads(nn.Module):
    """Two layers, of the first of which the code reads ``what``."""

    def __init__(self, what) -> None:
        super().__init__()
        self.first, self.second, self.what = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1), what

    def forward(self, x):
        self.what(self.first)
        return self.second(self.first(x).relu()).relu()


@pytest.mark.parametrize('what', [lambda layer: torch.zeros(1, dtype=layer.weight.dtype, device=layer.weight.device),
                                  lambda layer: layer.weight.is_floating_point(), lambda layer: layer.out_channels])
def test_asking_a_layer_for_its_type_and_device_is_no_use_of_its_weight(what):
    """transformers' ``x.to(self.patch_embedding.weight.dtype)``: the whole retrofit failed, also with ``on_misfit='keep'``."""
    result = retrofit(Reads(what).double(), classics.conv2d(), torch.randn(SHAPE).double())
    assert list(filled_slots(result)) == ['first', 'second']
    assert result.first.weight.dtype == torch.float64


@pytest.mark.parametrize('what', [lambda layer: layer.weight.shape, lambda layer: layer.weight.size(0),
                                  lambda layer: layer.weight.data, lambda layer: layer.weight.numel()])
def test_shapes_and_values_of_a_weight_are_used_outside(what):
    slots, excluded = find_slots(Reads(what), SHAPE)
    assert [s.name for s in slots] == ['second'] and 'also used outside this layer' in excluded[0].reason


def test_what_an_operator_does_not_have_keeps_one_layer():
    """A model that reads ``kernel_size`` of its layer: the error did not say of which, and nothing helped."""
    model = Reads(lambda layer: layer.kernel_size)
    with pytest.raises(SlotError, match=r'reads first\.kernel_size, which no operator has'):
        retrofit(model, classics.conv2d(), SHAPE)
    assert list(filled_slots(retrofit(model, classics.conv2d(), SHAPE, on_misfit='keep'))) == ['second']
    assert list(filled_slots(retrofit(model, {'*': classics.conv2d(), 'first': 'keep'}, SHAPE))) == ['second']
