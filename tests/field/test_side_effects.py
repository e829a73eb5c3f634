"""What retrofitting and fitting leave behind, and that they do what they report."""
from __future__ import annotations

import copy
import dataclasses
import random
from types import FunctionType

import numpy as np
import pytest
import torch
from torch import nn

from syno_nni.errors import SlotError
from syno_nni.modes import evaluating, keep_modes, training
from syno_nni.operator import classics
from syno_nni.search_spaces import filled_slots, find_slots, retrofit
from syno_nni.search_spaces.retrofit.distill import distill
from syno_nni.search_spaces.retrofit.measure_slots import layer_latencies, slot_errors, slot_losses
from syno_nni.search_spaces.retrofit.warm_start import fit_activations, fit_kernels, recalibrate_batch_norm, warm_start

SHAPE = (2, 4, 8, 8)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(4, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(),
                                  nn.Conv2d(8, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def mixed(model: nn.Module) -> nn.Module:
    """In training mode, but for a frozen norm and a convolution."""
    model.train()
    model.body[1].eval()
    model.body[4].eval()
    model.body[0].weight.requires_grad_(False)
    return model


def state(model: nn.Module) -> dict:
    return {'modes': [m.training for m in model.modules()], 'gradients': [p.requires_grad for p in model.parameters()],
            'grad': [p.grad is None for p in model.parameters()],
            'hooks': [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()],
            'values': {k: v.clone() for k, v in model.state_dict().items()}}


def assert_same(before: dict, after: dict) -> None:
    assert {k: v for k, v in before.items() if k != 'values'} == {k: v for k, v in after.items() if k != 'values'}
    assert before['values'].keys() == after['values'].keys()
    assert all(torch.equal(v, after['values'][k]) for k, v in before['values'].items())


BATCHES = [(torch.randn(8, *SHAPE[1:]), torch.zeros(8, dtype=torch.long))]
GROUPS = {'all': find_slots(Model(), SHAPE)[0]}


@pytest.mark.parametrize('action', [
    lambda m, r: warm_start(m, r), lambda m, r: warm_start(m, r, BATCHES), lambda m, r: fit_kernels(m, r),
    lambda m, r: fit_activations(m, r, [BATCHES[0][0]]), lambda m, r: find_slots(m, SHAPE),
    lambda m, r: layer_latencies(m, SHAPE, rounds=1), lambda m, r: distill(m, r, BATCHES, steps=1),
    lambda m, r: slot_errors(m, GROUPS, [classics.conv2d()], sweeps=1),
    lambda m, r: slot_losses(m, GROUPS, [classics.conv2d()], lambda c: 0.0),
    lambda m, r: retrofit(m, classics.conv2d(), SHAPE)])
def test_the_original_is_as_it_was(action):
    """torchebm#303: a warm start left the layers that it replaces in evaluation mode, in the original."""
    torch.manual_seed(0)
    model = mixed(Model())
    result = retrofit(model, classics.conv2d(), SHAPE)
    before, modes = state(model), [m.training for m in result.modules()]
    action(model, result)
    assert_same(before, state(model))
    assert [m.training for m in result.modules()] == modes


@pytest.mark.parametrize('action', [
    lambda m, r: warm_start(m, r), lambda m, r: warm_start(m, r, BATCHES), lambda m, r: recalibrate_batch_norm(m, BATCHES)])
def test_random_states_are_as_they_were(action):
    """torchebm#303, sibling: fitting draws its own random numbers, not the caller's."""
    model = Model()
    result = retrofit(model, classics.conv2d(), SHAPE)
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    action(model, result)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all()
    assert random.getstate() == before[2]


def test_modes_come_back_after_an_error():
    """torchebm#303, sibling: also when what runs inside fails, and without calling a train() of the model's own."""
    class Merges(Model):
        merged = 0

        def train(self, mode: bool = True):
            self.merged += 1
            return super().train(mode)

    model = mixed(Merges())
    before, merged = [m.training for m in model.modules()], model.merged
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(m.training for m in model.modules())
        raise ZeroDivisionError
    assert [m.training for m in model.modules()] == before
    assert model.merged == merged
    with training(model):
        assert model.body[4].training
    with keep_modes(model):
        model.eval()
    assert [m.training for m in model.modules()] == before


class PlainList(Model):
    """Runs its layers from a list that torch does not know, and that is copied with the model."""

    def __init__(self) -> None:
        super().__init__()
        self.run = list(self.body)

    def forward(self, x):
        for layer in self.run:
            x = layer(x)
        return self.head(x.mean((2, 3)))


class PlainDict(Model):
    def __init__(self) -> None:
        super().__init__()
        self.steps = {'first': self.body[0], 'rest': self.body[1:]}

    def forward(self, x):
        return self.head(self.steps['rest'](self.steps['first'](x)).mean((2, 3)))


class Closure(Model):
    """Calls the layer of the model that it was made for, also in a copy: functions are not copied."""

    def __init__(self) -> None:
        super().__init__()
        first = self.body[0]
        self.first = lambda x: first(x)

    def forward(self, x):
        return self.head(self.body[1:](self.first(x)).mean((2, 3)))


@pytest.mark.parametrize('kind', [PlainList, PlainDict])
@pytest.mark.parametrize('known', [False, True])
def test_operators_that_would_not_be_used_are_refused(kind, known):
    """ao#2241: with slots that were found before, a retrofit reported filled slots and changed nothing."""
    model = kind().eval()
    slots, _ = find_slots(model, SHAPE)
    with pytest.raises(SlotError, match='also outside its registered modules'):
        retrofit(model, classics.conv2d(), *[SHAPE] * known, slots=slots)


def test_layers_that_a_closure_calls_are_no_slots():
    """ao#2241, sibling: a function on the model goes on calling the layer of the original."""
    slots, excluded = find_slots(Closure(), SHAPE)
    assert [s.name for s in slots] == ['body.4']
    assert 'not copied with the model' in excluded[0].reason
    found = [dataclasses.replace(s, name='body.0', sizes={**s.sizes, 'C_in': 4}) for s in slots]
    with pytest.raises(SlotError, match='also outside its registered modules'):
        retrofit(Closure(), classics.conv2d(), slots=found)


@pytest.mark.parametrize('kind', [PlainList, PlainDict])
def test_they_are_refused_also_without_a_run(kind):
    """ao#2241: slots that carry no input (from a file, say), or no check wanted."""
    model = kind().eval()
    slots, _ = find_slots(model, SHAPE)
    for options in ({'slots': [dataclasses.replace(s, example=None) for s in slots]}, {'check': False},
                    {'slots': slots, 'check': False}):
        with pytest.raises(SlotError, match='also outside its registered modules'):
            retrofit(model, classics.conv2d(), SHAPE if 'slots' not in options else None, **options)


def test_models_that_use_their_modules_are_filled_without_a_run():
    """ao#2241, the other side: what holds its layers in the usual ways passes, and computes something else."""
    model = Model().eval()
    slots, _ = find_slots(model, SHAPE)
    result = retrofit(model, classics.conv2d(), slots=[dataclasses.replace(s, example=None) for s in slots], check=False)
    assert list(filled_slots(result)) == ['body.0', 'body.4']
    assert not torch.equal(result.eval()(BATCHES[0][0]), model(BATCHES[0][0]))
    assert filled_slots(copy.deepcopy(result)).keys() == filled_slots(result).keys()


def test_retrofit_is_the_function():
    """ao#2241, sibling: a name that is both a package and a function gave the module after some imports."""
    import syno_nni.search_spaces.retrofit.retrofit
    import syno_nni.search_spaces.retrofit.warm_start
    from syno_nni.search_spaces import retrofit as imported
    assert isinstance(imported, FunctionType)
    assert callable(syno_nni.search_spaces.retrofit)
