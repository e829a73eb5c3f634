from __future__ import annotations

import copy
import json

import pytest
import torch
from torch import nn

from syno_nni.errors import SlotError, SynoError
from syno_nni.operator import Operator
from syno_nni.search_spaces.filled_slot import FilledSlot, misfit
from syno_nni.search_spaces.retrofit.retrofit import apply_slot_config, filled_slots, retrofit, slot_config
from syno_nni.search_spaces.slots import find_slots

CONV = ('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in, i:k_1, j:k_1] in[n, c, unfold(h, i), unfold(w, j)] '
        '* w1[o, c, i, j]')
RECTANGULAR = CONV.replace('w:H', 'w:W')
POINTWISE = 'out[n:N, o:C_out, h:H, w:H] = sum[c:C_in] in[n, c, h, w] * w1[o, c]'
CONV1D = 'out[n:N, o:C_out, l:L] = sum[c:C_in, i:k_1] in[n, c, unfold(l, i)] * w1[o, c, i]'
LINEAR = 'out[n:N, o:C_out] = sum[c:C_in] in[n, c] * w1[o, c]'
TOKENS = 'out[n:N, t:T, o:C_out] = sum[c:C_in, i:k_1] in[n, unfold(t, i), c] * w1[o, c, i]'
GROUPED = ('out[n:N, o:C_out, h:H, w:H] = sum[c:C_in/g, i:k_1, j:k_1] '
           'in[n, (o//(C_out/g))*(C_in/g) + c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]')


class Net(nn.Module):
    """Two kinds of slots, a stride and an odd map."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
                                  nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.Conv2d(16, 16, 1))
        self.head = nn.Linear(16, 4)

    def forward(self, x):
        return self.head(self.body(self.stem(x)).mean((2, 3)))


EXAMPLE = (2, 3, 9, 9)


def assert_trains_and_reloads(model: nn.Module, original: nn.Module, x: torch.Tensor) -> None:
    """Forward, backward into every operator, and a round trip through config and state_dict."""
    model.train()
    model(x).square().sum().backward()
    for name, slot in filled_slots(model).items():
        for parameter in slot.parameters():
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
    config = json.loads(json.dumps(slot_config(model)))
    again = apply_slot_config(original, config)
    again.load_state_dict(copy.deepcopy(model.state_dict()))
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), model.eval()(x))
    assert slot_config(again) == slot_config(model)


class TestRetrofit:
    def test_fills_slots_and_leaves_the_original_alone(self):
        model = Net().eval()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        torch.manual_seed(0)
        result = retrofit(model, CONV, EXAMPLE, kinds='conv3x3')
        assert list(filled_slots(result)) == ['body.0', 'body.3']
        assert not filled_slots(model)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert not result.training
        assert result(torch.zeros(3, 3, 9, 9)).shape == (3, 4)
        assert result.body[0].bias is not None
        assert torch.equal(result.body[0].bias, model.body[0].bias)
        assert result.body[0].bias is not model.body[0].bias
        assert result.body[3].bias is None
        assert result.body[3].stride == (2, 2)
        assert_trains_and_reloads(result, model, torch.randn(*EXAMPLE))

    def test_mapping_by_name_pattern_and_kind(self):
        op = Operator.parse(GROUPED)
        result = retrofit(Net(), {'body.?': CONV, 'body.3': 'keep', 'body.0': op, 'pointwise': POINTWISE}, EXAMPLE,
                          kinds='all')
        assert {n: s.op for n, s in filled_slots(result).items()} == {'body.0': op, 'body.4': Operator.parse(CONV)}

    def test_names_reach_slots_beyond_the_default_kinds(self):
        result = retrofit(Net(), {'pointwise': POINTWISE, 'conv3x3': CONV}, EXAMPLE)
        assert list(filled_slots(result)) == ['body.0', 'body.3', 'body.4']
        assert {s.sizes['g'] for s in filled_slots(result).values()} == {8}

    def test_slots_found_before(self):
        slots, _ = find_slots(Net(), EXAMPLE, include='body.0')
        assert list(filled_slots(retrofit(Net(), CONV, slots=slots))) == ['body.0']

    @pytest.mark.parametrize(('mapping', 'words'), [
        ({'body.7': CONV}, r"matches 'body.7'; did you mean"),
        ({'stem': CONV}, r'stem: C_in = 3 is too small'),
        ({'head': CONV}, r'head: it makes the output'),
        ({}, r'give an operator, a formula, or a mapping'),
        (None, r'give an operator'),
        ({'body.0': 3}, r"'body.0' maps to int"),
        ({'conv3x3': 'keep'}, r'keeps all'),
        (CONV.replace('C_in', 'C_mid'), r'operator \w+ does not fit slot body.0 \(conv3x3\).*needs C_mid'),
        (CONV.replace('w:H', 'w:k_1'), r'does not fit slot body.0.*input is \[1, 8, 9, 3\]'),
        (GROUPED.replace('/g', '/k_1'), r'does not fit slot body.0 \(conv3x3\): .*C_in/k_1'),
        (LINEAR.replace('[n, c]', '[n, c, n]'), r'.'),
    ])
    def test_bad_mappings(self, mapping, words):
        with pytest.raises(SynoError, match=words):
            retrofit(Net(), mapping, EXAMPLE)

    def test_misfits_can_be_kept(self):
        # Only the slot of 16 channels divides by 16.
        op = GROUPED.replace('C_in/g', 'C_in/q').replace('C_out/g', 'C_out/q')
        options = {'kinds': 'all', 'coefficients': {'q': 16}}
        with pytest.raises(SlotError, match=r'does not fit slot body.0.*C_in/q'):
            retrofit(Net(), op, EXAMPLE, **options)
        assert list(filled_slots(retrofit(Net(), op, EXAMPLE, on_misfit='keep', **options))) == ['body.4']

    def test_no_slot(self):
        with pytest.raises(SlotError, match=r'has no slot \(0: its padding'):
            retrofit(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), CONV, EXAMPLE)
        with pytest.raises(SlotError, match='no convolution or linear layer'):
            retrofit(nn.Sequential(nn.Flatten()), CONV, EXAMPLE)

    def test_layers_reached_behind_torchs_back(self):
        class Hidden(Net):
            def __init__(self) -> None:
                super().__init__()
                self.also = [self.body[0]]

            def forward(self, x):
                return self.head(self.body[1:](self.also[0](self.stem(x))).mean((2, 3)))

        with pytest.raises(SlotError, match=r'body.0 also outside its registered modules'):
            retrofit(Hidden(), CONV, EXAMPLE)

    def test_code_that_reads_its_layers(self):
        class Peek(Net):
            def forward(self, x):
                return super().forward(x.to(self.body[0].weight.dtype))

        class Pads(Net):
            def forward(self, x):
                return super().forward(x + 0 * self.body[0].padding[0])

        assert retrofit(Peek().double(), CONV, EXAMPLE)(torch.zeros(EXAMPLE)).dtype == torch.float64
        with pytest.raises(SlotError, match=r'reads body\.0\.padding, which no operator has'):
            retrofit(Pads(), CONV, EXAMPLE)

    def test_types(self):
        result = retrofit(Net().double(), CONV, EXAMPLE)
        assert {p.dtype for p in result.parameters()} == {torch.float64}
        assert result(torch.zeros(EXAMPLE, dtype=torch.float64)).dtype == torch.float64

    def test_shared_layers_stay_shared(self):
        layer = nn.Conv2d(8, 8, 3, padding=1)
        model = nn.Sequential(layer, nn.ReLU(), layer, nn.Flatten())
        result = retrofit(model, CONV, (1, 8, 6, 6))
        assert result[0] is result[2]
        again = apply_slot_config(model, slot_config(result))
        assert again[0] is again[2]
        assert_trains_and_reloads(result, model, torch.randn(1, 8, 6, 6))


class Gpt(nn.Module):
    """One block of a language model whose classifier shares the embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.qkv, self.mix = nn.Embedding(32, 8), nn.Linear(8, 24), nn.Linear(8, 8)
        self.classify = nn.Linear(8, 32, bias=False)
        self.classify.weight = self.embed.weight

    def forward(self, tokens):
        x = self.embed(tokens)
        q, k, v = (t.unsqueeze(1) for t in self.qkv(x).chunk(3, -1))
        y = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.classify(x + self.mix(y.squeeze(1)))


def test_language_model():
    model, tokens = Gpt(), torch.arange(24).reshape(2, 12)
    grouped = 'out[n:N, t:T, o:C_out] = sum[c:C_in/g] in[n, t, (o//(C_out/g))*(C_in/g) + c] * w1[o, c]'
    result = retrofit(model, {'qkv': grouped}, tokens)
    assert list(filled_slots(result)) == ['qkv']
    result(tokens).square().sum().backward()
    # No token sees a later one: the operator works on each by itself.
    changed = tokens.clone()
    changed[:, 6:] = 0
    torch.testing.assert_close(result(changed)[:, :6], result(tokens)[:, :6])


class Tail(nn.Module):
    """A layer, and something after it so that it is not the model's output."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) * 2


class TestLayouts:
    @pytest.mark.parametrize(('layer', 'shape', 'formula'), [
        (nn.Linear(8, 16), (3, 8), LINEAR),
        (nn.Linear(8, 16), (3, 5, 8), LINEAR),
        (nn.Linear(8, 16), (3, 5, 6, 8), LINEAR),
        (nn.Linear(8, 16), (3, 2, 5, 6, 8), LINEAR),
        (nn.Linear(8, 16), (3, 5, 8), TOKENS),
        (nn.Linear(8, 16), (3, 4, 5, 8), TOKENS),
        (nn.Linear(8, 16), (3, 8), TOKENS),
        (nn.Linear(8, 16), (3, 6, 6, 8), CONV),
        (nn.Linear(8, 16), (3, 5, 6, 8), RECTANGULAR),
        (nn.Linear(8, 16), (3, 5, 8), CONV1D),
        (nn.Conv1d(8, 16, 3, padding=1), (3, 8, 12), CONV1D),
        (nn.Conv1d(8, 16, 3, 2, 1), (3, 8, 13), CONV1D),
        (nn.Conv1d(8, 16, 1), (3, 8, 12), TOKENS),
        (nn.Conv2d(8, 16, 1), (3, 8, 5, 6), LINEAR),
        (nn.Conv2d(8, 16, 1), (3, 8, 5, 6), TOKENS),
        (nn.Conv2d(8, 16, 3, padding=1), (3, 8, 5, 6), RECTANGULAR),
        (nn.Conv2d(8, 16, 3, padding=1), (3, 8, 6, 6), RECTANGULAR),
        (nn.Conv2d(8, 16, 3, (2, 1), 1), (3, 8, 10, 5), RECTANGULAR),
        (nn.Conv2d(8, 16, 3, 2, 1), (3, 8, 9, 10), RECTANGULAR),
        (nn.Conv2d(8, 16, 2, 2), (3, 8, 8, 8), CONV),
    ])
    def test_shapes(self, layer, shape, formula):
        model = Tail(layer)
        x = torch.randn(shape)
        result = retrofit(model, formula, x, kinds='all')
        assert result(x).shape == model(x).shape
        assert result(torch.cat([x, x])).shape == model(torch.cat([x, x])).shape
        assert_trains_and_reloads(result, model, x)

    @pytest.mark.parametrize(('layer', 'shape', 'formula', 'words'), [
        (nn.Linear(8, 16), (3, 5, 8), CONV, 'needs H'),
        (nn.Conv2d(8, 16, 3, padding=1), (3, 8, 5, 6), CONV.replace('unfold(h, i), unfold(w, j)', 'unfold(w, i), unfold(h, j)'),
         'swaps or mixes height and width, so it fits square maps only'),
        (nn.Conv2d(8, 16, 3, padding=1), (3, 8, 6, 6), CONV.replace('in[n, c, unfold(h, i)', 'in[n, c, unfold(h//s, i)'),
         r'input is \[1, 8, 3, 6\], the slot.s is \[1, 8, 6, 6\]'),
        (nn.Conv2d(8, 16, 3, padding=1), (3, 8, 6, 6), CONV.replace('o:C_out, h:H', 'h:H, o:C_out'), 'in one order'),
    ])
    def test_operators_that_do_not_fit(self, layer, shape, formula, words):
        slots, _ = find_slots(Tail(layer), torch.zeros(shape), kinds='all')
        assert misfit(Operator.parse(formula), slots[0]).strip()
        with pytest.raises(SlotError, match=words):
            retrofit(Tail(layer), formula, torch.zeros(shape), kinds='all')

    @pytest.mark.parametrize(('layer', 'shape', 'formula'), [
        (nn.Conv2d(8, 16, 3, padding=1), (2, 8, 6, 6), CONV),
        (nn.Conv2d(8, 16, 3, padding=1, bias=False), (2, 8, 5, 7), RECTANGULAR),
        (nn.Conv2d(8, 16, 3, padding=1, groups=4), (2, 8, 6, 6), GROUPED.replace('/g', '/r')),
        (nn.Conv2d(8, 16, 1), (2, 8, 6, 6), POINTWISE),
        (nn.Conv2d(8, 16, 1), (2, 8, 5, 7), LINEAR),
        (nn.Conv1d(8, 16, 3, padding=1), (2, 8, 12), CONV1D),
        (nn.Linear(8, 16), (2, 5, 6, 8), LINEAR),
        (nn.Linear(8, 16), (2, 6, 6, 8), POINTWISE),
    ])
    def test_the_layers_own_operator_with_its_weights_gives_its_outputs(self, layer, shape, formula):
        model, x = Tail(layer), torch.randn(shape)
        result = retrofit(model, formula, x, kinds='all', coefficients={'r': 4})
        slot = result.layer
        dims = [str(c.size) for c in slot.op.weights[0]]
        order = [dims.index('C_out')] + [i for i, d in enumerate(dims) if d not in ('C_out', 'k_1')] + [
            i for i, d in enumerate(dims) if d == 'k_1']
        with torch.no_grad():
            weight = slot.layer.weights[0]
            weight.permute(order).copy_(layer.weight.reshape([weight.shape[i] for i in order]))
            torch.testing.assert_close(result(x), model(x))


class TestConfig:
    def test_of_an_untouched_model_is_empty(self):
        assert slot_config(Net()) == {'format': 1, 'slots': {}}

    def test_says_what_is_where(self):
        entry = slot_config(retrofit(Net(), {'body.3': CONV}, EXAMPLE))['slots']['body.3']
        assert Operator.parse(entry['formula']) == Operator.parse(CONV)
        assert (entry['stride'], entry['input_size'], entry['bias']) == ([2, 2], [9, 9], False)
        assert entry['sizes'] == {'N': 1, 'C_in': 8, 'C_out': 16, 'H': 5, 'k_1': 3, 'k_2': 7, 's': 2, 'g': 8}

    @pytest.mark.parametrize(('config', 'words'), [
        (None, 'a slot configuration is a mapping'),
        ({'format': 1}, 'a slot configuration is a mapping'),
        ({'format': 2, 'slots': {}}, 'format 2, this version reads 1'),
        ({'format': 1, 'slots': {'body.9': {}}}, "'body.9' is no convolution"),
        ({'format': 1, 'slots': {'body.1': {}}}, "'body.1' is no convolution"),
        ({'format': 1, 'slots': {'body.0': {}}}, "'body.0': malformed entry .*formula"),
        ({'format': 1, 'slots': {'body.0': 3}}, "'body.0': malformed entry"),
        ({'format': 1, 'slots': {'body.0': {'formula': 'out[', 'sizes': {}}}}, "'body.0': "),
        ({'format': 1, 'slots': {'body.0': {'formula': POINTWISE, 'sizes': {'C_in': 4, 'C_out': 8, 'H': 9}}}},
         'maps 8 channels to 8, its entry 4 to 8'),
    ])
    def test_bad_configurations(self, config, words):
        with pytest.raises(SlotError, match=words):
            apply_slot_config(Net(), config)

    def test_in_place(self):
        config = slot_config(retrofit(Net(), CONV, EXAMPLE))
        model = Net()
        assert apply_slot_config(model, config, inplace=True) is model
        assert filled_slots(model)


class TestFilledSlot:
    slot = find_slots(Net(), EXAMPLE)[0][1]

    def test_repr_names_the_operator(self):
        filled = FilledSlot.of(Operator.parse(CONV), self.slot)
        assert f'{filled.op.id}, 8 -> 16 @5, stride=(2, 2), bias=False' in repr(filled)

    def test_sizes_of_a_layer(self):
        filled = FilledSlot.of(Operator.parse(CONV), self.slot)
        assert (filled.in_channels, filled.out_features) == (8, 16)

    @pytest.mark.parametrize('formula', [CONV, LINEAR, TOKENS])
    def test_export_with_any_batch(self, formula):
        model = retrofit(Tail(nn.Conv2d(8, 8, 1)), formula, (2, 8, 6, 6), kinds='all').eval()
        x = torch.randn(2, 8, 6, 6)
        program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim('batch', min=2)},))
        torch.testing.assert_close(program.module()(torch.cat([x, x, x])), model(torch.cat([x, x, x])))


def test_a_layer_beyond_what_people_write_in_sizes() -> None:
    """A large classifier: products of its sizes have more digits than a size in a formula may."""
    low_rank = 'out[n:N, t:T, o:C_out] = sum[c:C_in, d:C_in/s] in[n, t, c] * w1[d, c] * w2[o, d]'
    with torch.device('meta'):
        slot = FilledSlot(Operator.parse(low_rank), {'N': 1, 'C_in': 25088, 'C_out': 4096, 'T': 1, 's': 2}, layout='NC')
        assert slot(torch.empty(2, 25088)).shape == (2, 4096)
