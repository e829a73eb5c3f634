"""The ways in which people train: averaged weights, adapters, mixed precision, checkpoints, processes, contexts."""
from __future__ import annotations

import copy
import io
import os
import pickle
import subprocess
import sys
import textwrap

import pytest
import timm
import torch
from timm.utils import ModelEmaV2, ModelEmaV3
from torch import nn
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, update_bn
from torch.utils.checkpoint import checkpoint

from syno_nni.errors import SlotError
from syno_nni.operator import classics
from syno_nni.search_spaces import apply_slot_config, filled_slots, find_slots, retrofit, slot_config
from syno_nni.search_spaces.retrofit.distill import Losses, distill
from syno_nni.search_spaces.retrofit.warm_start import warm_start

POINTWISE = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in] in[n, c, h, w] * w1[o, c]'
LINEAR = 'out[n:N, o:C_out] = sum[c:C_in] in[n, c] * w1[o, c]'
X = torch.randn(8, 8, 8, 8, generator=torch.Generator().manual_seed(0))
LAYERS = Losses(labels=0, logits=1, layers=1)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.b(self.norm(self.a(x)).relu()).relu().mean((2, 3)))


def pair(op=None, kind: type[nn.Module] = Net) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = kind().eval()
    return model, retrofit(model, op or classics.conv2d(), X[:2])


def step(model: nn.Module) -> None:
    model.train()
    model(X).square().mean().backward()
    torch.optim.SGD(model.parameters(), 0.5).step()


@pytest.mark.parametrize('average', [AveragedModel, ModelEmaV2, ModelEmaV3, lambda m: AveragedModel(m, use_buffers=True)])
def test_averaged_weights(average):
    """yolov5#9623, FasterViT#24, pytorch#84053: a copy for averaged weights, made after a step was taken."""
    model, result = pair()
    step(result)
    averaged = average(result)
    step(result)
    getattr(averaged, 'update_parameters', getattr(averaged, 'update', None))(result)
    inner = averaged.module
    assert filled_slots(inner).keys() == filled_slots(result).keys()
    assert inner.a.layer.weights[0] is not result.a.layer.weights[0]
    assert torch.isfinite(averaged(X)).all()
    # The wrapper is looked through, as that of data parallelism is: it was an unknown model with other names.
    assert max(warm_start(model, averaged).values()) < 1e-9
    assert [s.name for s in find_slots(average(Net()), X[:2])[0]] == ['a', 'b']
    assert type(retrofit(average(Net()), POINTWISE, X[:2])) is Net


def test_statistics_of_averaged_weights():
    """swa#15, pytorch-image-models#224: statistics of normalisations are made anew for averaged weights."""
    _, result = pair()
    averaged = AveragedModel(result)
    step(result)
    averaged.update_parameters(result)
    update_bn([X], averaged)
    want = averaged.module.a(X)
    torch.testing.assert_close(averaged.module.norm.running_mean, want.mean((0, 2, 3)).detach(), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize('outer', [torch.no_grad, torch.inference_mode, lambda: torch.autocast('cpu', torch.bfloat16)])
@pytest.mark.parametrize('batches', [None, [X]])
def test_warm_start_in_a_context_of_the_caller(outer, batches):
    """ultralytics#25748, ComfyUI#2194, ArcticTraining#265: code for evaluation wraps all in one context. Without gradients
    the fit ended in an error of torch; under autocast its numbers had 8 bits, a billion times the error."""
    model, result = pair()
    with outer():
        errors = warm_start(model, result, batches)
    assert max(errors.values()) < 1e-9
    torch.testing.assert_close(result.a(X), model.a(X), atol=1e-4, rtol=1e-4)
    step(result)


@pytest.mark.parametrize('what', ['model', 'result', 'both', 'batches'])
def test_what_is_made_in_inference_mode_can_be_trained(what):
    """dinov2#472, FastEdit#26: parameters made in inference mode fail in the first training step, far from the cause."""
    batches = [X]
    with torch.inference_mode(what in ('model', 'both')):
        torch.manual_seed(0)
        model = Net().eval()
    with torch.inference_mode(what in ('result', 'both')):
        result = retrofit(model, classics.conv2d(), X[:2])
        again = apply_slot_config(model, slot_config(result))
    with torch.inference_mode(what == 'batches'):
        batches = [X * 1]
    assert max(warm_start(model, result, batches).values()) < 1e-9
    for module in (result, again):
        assert not any(p.is_inference() for s in filled_slots(module).values() for p in s.parameters())
    if what != 'batches':
        step(result)
    assert distill(model, result, [X], steps=1, losses=LAYERS)


@pytest.mark.parametrize('wrap', [lambda m: torch.compile(m, backend='eager'), nn.DataParallel, AveragedModel,
                                  lambda m: nn.DataParallel(torch.compile(m, backend='eager'))])
@pytest.mark.parametrize('which', ['original', 'result'])
@pytest.mark.parametrize('ran', [False, True])
def test_layers_are_distilled_through_wrappers(wrap, which, ran):
    """pytorch#117758, pytorch#173452: hooks that come after the first compilation are never called."""
    model, result = pair(POINTWISE)
    wrapped = wrap(model if which == 'original' else result)
    if ran:
        wrapped(X)
    plain = distill(*pair(POINTWISE), [X], steps=2, losses=LAYERS)
    models = (wrapped, result) if which == 'original' else (model, wrapped)
    assert distill(*models, [X], steps=2, losses=LAYERS) == pytest.approx(plain, rel=1e-3)


class Checkpointed(Net):
    reentrant = False

    def forward(self, x):
        def block(x):
            return self.b(x).relu()
        x = self.norm(self.a(x)).relu()
        return self.head(checkpoint(block, x, use_reentrant=self.reentrant).mean((2, 3)))


class Reentrant(Checkpointed):
    reentrant = True


def test_activation_checkpoints():
    """pytorch#42212, pytorch-image-models#2394: with the old kind of checkpoints hooks see a run without gradients, so the
    loss of a layer inside one trained nothing, without a word."""
    want = distill(*pair(POINTWISE), [X], steps=2, losses=LAYERS)
    assert distill(*pair(POINTWISE, Checkpointed), [X], steps=2, losses=LAYERS) == pytest.approx(want, rel=1e-4)
    with pytest.raises(SlotError, match='no gradient reaches the output of b'):
        distill(*pair(POINTWISE, Reentrant), [X], steps=1, losses=LAYERS)
    assert distill(*pair(POINTWISE, Reentrant), [X], steps=1, losses=Losses(labels=0, logits=1))
    model, result = pair(POINTWISE, Reentrant)
    result.b.requires_grad_(False)
    assert distill(model, result, [X], steps=1, losses=LAYERS)


SMALL = {'vit_tiny_patch16_224': {'img_size': 32, 'patch_size': 8, 'depth': 2, 'embed_dim': 16, 'num_heads': 2},
         'convnext_atto': {'depths': (1, 1, 1, 1), 'dims': (8, 8, 16, 16)},
         'maxvit_pico_rw_256': {'img_size': 64, 'embed_dim': (32, 32, 32, 32), 'depths': (1, 1, 1, 1), 'stem_width': 8},
         'swin_tiny_patch4_window7_224': {'img_size': 56, 'depths': (1, 1), 'embed_dim': 16, 'num_heads': (2, 2)},
         'mobilenetv3_small_050': {}, 'resnet10t': {'channels': [8, 8, 8, 8], 'stem_width': 8}}


@pytest.mark.parametrize('name', SMALL)
def test_families_of_timm_in_all_setups(name):
    """pytorch#141896, LlamaFactory#6438, pytorch-image-models#2394: gradient checkpoints, autocast, 16 bits, and a copy, of
    models of timm whose linear and pointwise layers are operators."""
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=5, **SMALL[name]).eval()
    size = SMALL[name].get('img_size', 64)
    x = torch.randn(2, 3, size, size)
    slots, _ = find_slots(model, x, kinds=['linear', 'pointwise'])
    slots = [s for s in slots if not s.stride][:6]
    result = retrofit(model, LINEAR, slots=slots)
    assert max(warm_start(model, result).values()) < 1e-6
    torch.testing.assert_close(result(x), model(x), atol=1e-4, rtol=1e-3)

    def gradients(module: nn.Module) -> list[torch.Tensor]:
        module.zero_grad()
        torch.manual_seed(0)
        module(x).square().sum().backward()
        return [p.grad.clone() for p in module.parameters() if p.grad is not None]

    plain, saving = copy.deepcopy(result).train(), copy.deepcopy(result).train()
    saving.set_grad_checkpointing()
    for got, want in zip(gradients(saving), gradients(plain), strict=True):
        torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-3)
    assert [s.name for s in find_slots(saving, x, kinds='all')[0]] == [s.name for s in find_slots(plain, x, kinds='all')[0]]
    with torch.autocast('cpu', torch.bfloat16):
        assert all(torch.isfinite(g).all() for g in gradients(copy.deepcopy(plain)))
    half = copy.deepcopy(result).to(torch.bfloat16)(x.bfloat16())
    assert half.dtype is torch.bfloat16
    assert float((half.float() - result(x)).detach().norm() / result(x).detach().norm()) < 0.1


def test_copies_and_files():
    """pytorch#54580, byol-pytorch#95, deq#23: copies, pickles and checkpoints of a model that has been trained a step."""
    model, result = pair()
    step(result)
    result.eval()
    buffer = io.BytesIO()
    torch.save(result.state_dict(), buffer)
    buffer.seek(0)
    again = apply_slot_config(Net(), slot_config(result)).eval()
    again.load_state_dict(torch.load(buffer, weights_only=True))
    for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result)), again):
        assert torch.equal(other(X), result(X))
        assert not {p.data_ptr() for p in other.parameters()} & {p.data_ptr() for p in result.parameters()}


class Lora(nn.Module):
    """A low-rank adapter around a frozen layer, as peft wraps it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer.requires_grad_(False)
        self.down, self.up = nn.Linear(layer.in_features, 4, bias=False), nn.Linear(4, layer.out_features, bias=False)

    def forward(self, x):
        return self.base_layer(x) + self.up(self.down(x))


def test_layers_inside_adapters():
    """peft#761, peft#1324, LoRA-Torch#3: the frozen layer inside an adapter is a slot, the adapter stays around it."""
    torch.manual_seed(0)
    model = timm.create_model('vit_tiny_patch16_224', num_classes=5, **SMALL['vit_tiny_patch16_224']).eval()
    for block in model.blocks:
        block.mlp.fc1 = Lora(block.mlp.fc1)
    x = torch.randn(2, 3, 32, 32)
    result = retrofit(model, {'*.base_layer': LINEAR}, x, kinds='linear')
    assert list(filled_slots(result)) == ['blocks.0.mlp.fc1.base_layer', 'blocks.1.mlp.fc1.base_layer']
    assert max(warm_start(model, result).values()) < 1e-9
    torch.testing.assert_close(result(x), model(x), atol=1e-4, rtol=1e-3)
    assert torch.equal(result.blocks[0].mlp.fc1.up.weight, model.blocks[0].mlp.fc1.up.weight)


def test_weights_that_attention_reads_without_a_call():
    """pytorch#78109, LoRA-Torch#3, helical#405: torch's attention never calls its output projection, so what is put there
    would compute nothing."""
    model = nn.Sequential(nn.Linear(16, 16), nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), nn.Linear(16, 16),
                          nn.ReLU())
    slots, excluded = find_slots(model, (2, 6, 16), kinds='all')
    assert [s.name for s in slots] == ['0', '2']
    assert {e.name for e in excluded} == {'1.self_attn.out_proj', '1.linear1', '1.linear2'}
    assert all('reads its weight directly' in e.reason for e in excluded)


class Tied(nn.Module):
    """Embedding and output share a matrix; so do a layer and the function behind it, which uses its transpose."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.free = nn.Embedding(20, 16), nn.Linear(16, 16)
        self.encoder, self.output = nn.Linear(16, 16), nn.Linear(16, 20, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x):
        x = functional.linear(self.encoder(self.free(self.embedding(x))), self.encoder.weight.t())
        return self.output(x).log_softmax(-1)


def test_tied_weights():
    """safetensors#98, safetensors#304, LlamaFactory#10137: tied layers stay, and those that are free are filled."""
    model = Tied().eval()
    slots, excluded = find_slots(model, torch.zeros(2, 7, dtype=torch.long), kinds='all')
    assert [s.name for s in slots] == ['free']
    assert {e.name: e.reason.rpartition(' ')[2] for e in excluded} == {'encoder': 't', 'output': 'embedding'}
    result = retrofit(model, LINEAR, slots=slots)
    assert result.output.weight is result.embedding.weight


class Twice(nn.Module):
    """One layer under two names, called twice on inputs that have nothing in common."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = self.first

    def forward(self, x):
        return self.second(5 * self.first(x).relu() + 5).relu()


def test_layers_that_are_called_several_times():
    """mmdetection#2294, FCOS#44: a shared layer was fitted to its first call alone, whose error alone was reported."""
    from syno_nni.search_spaces.retrofit.warm_start import _capture
    model, result = pair(POINTWISE, Twice)
    assert result.first is result.second
    reported = warm_start(model, result, [X])['first']
    other = torch.randn(64, 8, 8, 8)
    calls = _capture(model, model.first, other, 2)
    with torch.no_grad():
        wrong = sum(float((result.first(x) - y).square().sum()) for x, y in calls)
    assert reported == pytest.approx(wrong / sum(float(y.square().sum()) for _, y in calls), rel=0.3)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(8, 8, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, image, meta, scale=1.0):
        return self.c((self.a(image).mean((2, 3)) + scale * self.b(meta)).relu()).relu()


META = torch.randn(8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.zeros(8, dtype=torch.long)


@pytest.mark.parametrize('batch', [{'image': X, 'meta': META}, ((X, META), LABELS), ([X, META], LABELS), ((X, META),),
                                   ({'image': X, 'meta': META}, LABELS), {'image': X, 'meta': META, 'scale': 2.0}])
def test_several_inputs(batch):
    """ipex-llm#8044, openvino#19555, pytorch#74732: a model of an image and numbers could be filled, but
    neither warm-started on data nor distilled."""
    torch.manual_seed(0)
    model = TwoInputs().eval()
    result = retrofit(model, {'conv3x3': classics.conv2d(), 'linear': LINEAR}, {'image': X, 'meta': META})
    assert len(filled_slots(result)) == 3
    assert set(warm_start(model, result, [batch, batch, batch, batch])) == {'a', 'b', 'c'}
    assert distill(model, result, [batch], steps=1, losses=LAYERS)


@pytest.mark.parametrize('batches', [[], [3], [None]])
def test_batches_that_are_none(batches):
    """pytorch#74732, sibling: what is no batch is named."""
    model, result = pair()
    with pytest.raises(SlotError, match='batch'):
        warm_start(model, result, batches)


def test_models_without_values():
    """torchtitan#84, lightning-thunder#887, pytorch-image-models#2350: looked at and filled on the meta device, which ended in
    a NotImplementedError; values come with the state."""
    model, want = pair()
    with torch.device('meta'):
        empty = Net()
    assert [s.name for s in find_slots(empty, (2, 8, 8, 8))[0]] == ['a', 'b']
    result = retrofit(empty, classics.conv2d(), (2, 8, 8, 8))
    assert {p.device.type for p in result.parameters()} == {'meta'}
    result.load_state_dict(want.state_dict(), assign=True)
    assert torch.equal(result.eval()(X), want(X))


def test_frozen_backbones_get_operators_that_train():
    """FixRes#9, deeplab-resnet#39: what is frozen stays so, except what is new and has nothing to keep."""
    torch.manual_seed(0)
    model = Net().eval().requires_grad_(False)
    model.head.requires_grad_(True)
    result = retrofit(model, POINTWISE, X[:2])
    trained = {n for n, p in result.named_parameters() if p.requires_grad}
    assert {'a.layer.weights.0', 'b.layer.weights.0', 'head.weight', 'head.bias'} <= trained
    assert not any(n.startswith('norm') for n in trained)
    before = copy.deepcopy(result.state_dict())
    distill(model, result, [X], steps=2, losses=LAYERS)
    assert all(torch.equal(v, before[k]) for k, v in result.state_dict().items() if k.startswith('norm'))


def test_synchronized_normalisations():
    """pytorch-image-models#1254, pytorch#187298: conversion after the retrofit leaves operators alone, and they are slots
    when it came before."""
    model, result = pair()
    converted = nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(result)).eval()
    assert filled_slots(converted).keys() == filled_slots(result).keys()
    torch.testing.assert_close(converted(X), result(X))
    model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    assert [s.name for s in find_slots(model, X[:2])[0]] == ['a', 'b']
    assert max(warm_start(model, retrofit(model, classics.conv2d(), X[:2]), [X]).values()) < 1e-9


def test_gradients_add_up_over_small_batches():
    """pytorch#54580, sibling: accumulated gradients are those of the whole batch."""
    _, result = pair(classics.operator_2())

    def gradients(parts) -> list[torch.Tensor]:
        result.zero_grad()
        for part in parts:
            result.eval()(part).square().sum().backward()
        return [p.grad.clone() for p in result.parameters()]

    for got, want in zip(gradients(X.split(2)), gradients([X]), strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-3)


RANK = """
import sys, torch
from torch import nn
sys.path.insert(0, {tests!r})
from test_training_setups import LAYERS, X, pair, classics, distill, slot_config, apply_slot_config, Net, POINTWISE
rank = int(sys.argv[1])
torch.distributed.init_process_group('gloo', init_method='file://' + sys.argv[2], rank=rank, world_size=2)
model, result = pair(classics.operator_2())
parallel = nn.parallel.DistributedDataParallel(result)
# Each process has other data; gradients are averaged, so the models stay equal.
history = distill(model, parallel, [X[rank * 4:rank * 4 + 4]], steps=2, losses=LAYERS)
mine = torch.cat([p.detach().flatten() for p in result.parameters()])
both = [torch.zeros_like(mine) for _ in range(2)]
torch.distributed.all_gather(both, mine)
assert torch.equal(*both), (both[0] - both[1]).abs().max()
from torch.distributed.checkpoint.state_dict import get_model_state_dict
state = get_model_state_dict(parallel)
again = apply_slot_config(Net(), slot_config(result)).eval()
again.load_state_dict(state)
assert torch.equal(again(X), result.eval()(X))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_two_processes(tmp_path):
    """pytorch#22436, pytorch#41324, pytorch#19791: data parallelism complains of parameters without gradients or goes apart
    without a word; and the wrapped model was refused by the loss of the layers."""
    script = tmp_path / 'rank.py'
    script.write_text(textwrap.dedent(RANK.format(tests=os.path.dirname(__file__))))
    ranks = [subprocess.Popen([sys.executable, str(script), str(n), str(tmp_path / 'store')], stderr=subprocess.PIPE, text=True)
             for n in range(2)]
    for rank in ranks:
        _, error = rank.communicate(timeout=300)
        assert rank.returncode == 0, error[-2000:]


class Auxiliary(nn.Module):
    """A head with a norm that runs in training only, as GoogLeNet's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.BatchNorm2d(8)

    def forward(self, x):
        y = self.norm(self.conv(x)).relu()
        return (y, self.head(y)) if self.training else y


@pytest.mark.filterwarnings('ignore')
def test_norms_that_the_data_do_not_reach_keep_their_statistics() -> None:
    """pytorch/vision#302, sibling: **silent**, statistics of auxiliary heads were 0 and 1 after a warm start on data."""
    model = Auxiliary().eval()
    model.head.running_mean.fill_(3.0)
    model.head.num_batches_tracked.fill_(5)
    result = retrofit(model, classics.conv2d(), (2, 8, 8, 8))
    warm_start(model, result, [torch.randn(4, 8, 8, 8)])
    assert (result.head.running_mean == 3).all() and result.head.num_batches_tracked == 5
    assert result.norm.running_mean.abs().max() > 0
