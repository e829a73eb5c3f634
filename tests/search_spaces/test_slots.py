from __future__ import annotations

import pytest
import torch
from torch import nn

from syno_nni.errors import SlotError
from syno_nni.search_spaces.slot_table import format_slot_table, quantity, slot_rows
from syno_nni.search_spaces.slots import bindings, common_groups, find_slots, group_slots
from syno_nni.search_spaces.trace import trace


def conv(c_in: int, c_out: int, k: int = 3, **options) -> nn.Conv2d:
    return nn.Conv2d(c_in, c_out, k, padding=options.pop('padding', k // 2), **options)


def slots_of(model: nn.Module, example, **options):
    slots, excluded = find_slots(model, example, **{'kinds': 'all', **options})
    return {s.name: s for s in slots}, {e.name: e.reason for e in excluded}


class Head(nn.Module):
    """A body and a classifier, so that the body's last layer is not the model's output."""

    def __init__(self, *layers: nn.Module, features: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(features, 10)

    def forward(self, x):
        return self.head(self.body(x).mean(dim=tuple(range(2, x.dim()))))


class TestKindsAndSizes:
    @pytest.mark.parametrize(('layer', 'kind', 'stride'), [
        (conv(8, 16), 'conv3x3', ()),
        (conv(8, 16, stride=2), 'conv3x3', (2, 2)),
        (conv(8, 16, 5), 'conv', ()),
        (conv(8, 16, 4, stride=4, padding=0), 'conv', (4, 4)),
        (nn.Conv2d(8, 16, (1, 7), padding=(0, 3)), 'conv', ()),
        (conv(8, 16, 1), 'pointwise', ()),
        (conv(8, 16, 1, stride=2), 'pointwise', (2, 2)),
        (conv(8, 16, groups=4), 'grouped', ()),
        (conv(8, 16, groups=8), 'depthwise', ()),
        (conv(8, 8, 7, groups=8, stride=2), 'depthwise', (2, 2)),
        (conv(8, 16, stride=(2, 1)), 'conv3x3', (2, 1)),
        (nn.Conv2d(8, 16, 3, padding='same'), 'conv3x3', ()),
    ])
    def test_convolutions(self, layer, kind, stride):
        slots, _ = slots_of(Head(layer, features=layer.out_channels), (1, 8, 16, 16))
        slot = slots['body.0']
        assert (slot.kind, slot.stride, slot.bias) == (kind, stride, True)
        out = layer(torch.zeros(1, 8, 16, 16))
        assert (slot.sizes['H'], slot.sizes.get('W', slot.sizes['H'])) == out.shape[2:]
        assert slot.macs == out.numel() * layer.weight[0].numel()
        assert slot.params == sum(p.numel() for p in layer.parameters())

    def test_square_maps_have_one_height_and_rectangular_ones_two(self):
        model = Head(conv(8, 16), features=16)
        assert 'W' not in slots_of(model, (2, 8, 12, 12))[0]['body.0'].sizes
        sizes = slots_of(model, (2, 8, 12, 20))[0]['body.0'].sizes
        assert (sizes['N'], sizes['H'], sizes['W']) == (1, 12, 20)

    def test_odd_maps_round_up_under_a_stride(self):
        assert slots_of(Head(conv(8, 16, stride=2), features=16), (1, 8, 15, 15))[0]['body.0'].sizes['H'] == 8

    def test_conv1d(self):
        slot = slots_of(Head(nn.Conv1d(8, 16, 3, padding=1), features=16), (1, 8, 20))[0]['body.0']
        assert (slot.kind, slot.layout, slot.sizes['L']) == ('conv1d', 'NCL', 20)

    @pytest.mark.parametrize(('shape', 'layout', 'sizes'), [
        ((3, 8), 'NC', {'N': 1}),
        ((3, 20, 8), 'NTC', {'N': 1, 'T': 20}),
        ((3, 5, 7, 8), 'NHWC', {'N': 1, 'T': 35, 'H': 5, 'W': 7}),
        ((3, 2, 5, 7, 8), 'C', {'N': 1, 'T': 70}),
    ])
    def test_linear_layers_of_any_leading_shape(self, shape, layout, sizes):
        slot = slots_of(nn.Sequential(nn.Linear(8, 16), nn.ReLU()), torch.zeros(shape))[0]['0']
        assert (slot.kind, slot.layout) == ('linear', layout)
        assert {v: slot.sizes[v] for v in ('N', 'T', 'H', 'W') if v in slot.sizes} == sizes

    def test_windows_folded_into_the_batch_count_as_samples(self):
        class Windows(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.layer = nn.Linear(8, 8)

            def forward(self, x):
                return self.layer(x.reshape(-1, 4, 8)).sum()

        slot = slots_of(Windows(), torch.zeros(2, 16, 8))[0]['layer']
        assert (slot.sizes['N'], slot.sizes['T'], slot.macs) == (4, 4, 16 * 64)

    def test_macs_are_per_sample_and_shares_of_the_whole_model(self):
        model = Head(conv(8, 16), conv(16, 16), features=16)
        one, _ = find_slots(model, (1, 8, 8, 8), kinds='all')
        two, _ = find_slots(model, (2, 8, 8, 8), kinds='all')
        assert [s.macs for s in one] == [s.macs for s in two] == [64 * 9 * 8 * 16, 64 * 9 * 16 * 16]
        assert sum(s.share for s in one) == pytest.approx(1 - 160 / trace(model, (1, 8, 8, 8)).macs)


class TestExclusions:
    @pytest.mark.parametrize(('layer', 'features', 'words'), [
        (conv(8, 16, padding=2, dilation=2), 16, 'dilated by 2x2'),
        (conv(8, 16, padding=0), 16, "padding is not 'same': 16x16 becomes 14x14"),
        (nn.ConvTranspose2d(8, 16, 2, stride=2), 16, 'transposed'),
        (nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(8, 16, 1)), 16, 'H = 1 is too small'),
        (conv(8, 3), 3, 'C_out = 3 is too small'),
    ])
    def test_says_why(self, layer, features, words):
        slots, excluded = slots_of(Head(layer, features=features), (1, 8, 16, 16))
        assert not slots
        assert any(words in reason for reason in excluded.values())

    def test_image_stem_and_classifier(self):
        slots, excluded = slots_of(Head(conv(3, 16), conv(16, 16), features=16), (1, 3, 16, 16))
        assert list(slots) == ['body.1']
        assert 'C_in = 3 is too small' in excluded['body.0']
        assert 'output of the model' in excluded['head']

    def test_three_dimensional(self):
        _, excluded = slots_of(Head(nn.Conv3d(8, 8, 3, padding=1), features=8), (1, 8, 4, 4, 4))
        assert '3-d' in excluded['body.0']

    def test_layers_of_one_mode_only(self):
        class Auxiliary(Head):
            def __init__(self) -> None:
                super().__init__(conv(8, 8), features=8)
                self.aux, self.spare, self.final = conv(8, 8), conv(8, 8), conv(8, 8)

            def forward(self, x):
                x = self.body(x)
                x = x + self.aux(x) if self.training else self.final(x)
                return super().forward(x)

        slots, excluded = slots_of(Auxiliary(), (1, 8, 8, 8))
        assert list(slots) == ['body.0']
        assert 'training only' in excluded['aux']
        assert 'not run on this input' in excluded['spare']
        assert 'not run in training' in excluded['final']

    def test_a_model_that_cannot_train_on_the_input_still_has_slots(self):
        class NoTraining(Head):
            def forward(self, x):
                if self.training:
                    raise RuntimeError('no labels')
                return super().forward(x)

        assert list(slots_of(NoTraining(conv(8, 8), features=8), (1, 8, 8, 8))[0]) == ['body.0']

    def test_weights_used_without_their_layer(self):
        class Tied(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.embed, self.mix, self.out = nn.Embedding(32, 8), nn.Linear(8, 8), nn.Linear(8, 32, bias=False)
                self.out.weight = self.embed.weight

            def forward(self, tokens):
                return self.out(self.mix(self.embed(tokens))).softmax(-1)

        slots, excluded = slots_of(Tied(), torch.zeros(1, 16, dtype=torch.long))
        assert list(slots) == ['mix']
        assert 'used outside this layer, by embedding' in excluded['out']

    def test_fused_attention(self):
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        slots, excluded = slots_of(nn.Sequential(layer, nn.Linear(8, 8), nn.Tanh()), (1, 12, 8))
        assert list(slots) == ['1']
        assert 'TransformerEncoderLayer reads its weight' in excluded['0.linear1']

    def test_different_sizes_in_one_layer(self):
        class Pyramid(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.head = conv(8, 8)

            def forward(self, x):
                return self.head(x).sum() + self.head(x[..., ::2, ::2]).sum()

        assert 'different sizes: 1x8x16x16 and 1x8x8x8' in slots_of(Pyramid(), (1, 8, 16, 16))[1]['head']


class TestSharedLayers:
    def test_called_several_times(self):
        layer = conv(8, 8)
        slots, _ = slots_of(Head(layer, nn.ReLU(), layer, features=8), (1, 8, 8, 8))
        slot = slots['body.0']
        assert (slot.calls, slot.aliases, slot.macs) == (2, ('body.2',), 2 * 64 * 64 * 9)
        assert len(slots) == 1


class TestTracing:
    def test_leaves_the_model_and_the_random_state_alone(self):
        model = Head(conv(8, 8), nn.BatchNorm2d(8), nn.Dropout(), features=8).train()
        model.body[1].eval()
        before = {k: v.clone() for k, v in model.state_dict().items()}
        torch.manual_seed(5)
        want = torch.rand(3)
        torch.manual_seed(5)
        find_slots(model, (1, 8, 8, 8))
        assert torch.equal(torch.rand(3), want)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
        assert [m.training for m in model.body] == [True, False, True]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())

    def test_example_inputs(self):
        model = Head(conv(8, 8), features=8)
        x = torch.zeros(1, 8, 8, 8)
        for example in (x.shape, tuple(x.shape), x, (x,), {'x': x}):
            assert len(slots_of(model, example)[0]) == 1

    @pytest.mark.parametrize('example', [None, 'image', 3, (1, 4, 8, 8)])
    def test_bad_example(self, example):
        with pytest.raises(SlotError):
            find_slots(Head(conv(8, 8), features=8), example)

    def test_double_precision(self):
        assert slots_of(Head(conv(8, 8), features=8).double(), (1, 8, 8, 8))[0]


class TestSelection:
    model = Head(conv(8, 16), conv(16, 16, 1), conv(16, 16, groups=16), features=16)

    @pytest.mark.parametrize(('options', 'names'), [
        ({}, [0, 1, 2]),
        ({'kinds': 'auto'}, [0, 1]),
        ({'kinds': ('depthwise', 'pointwise')}, [1, 2]),
        ({'kinds': 'depthwise,pointwise'}, [1, 2]),
        ({'include': 'body.[12]'}, [1, 2]),
        ({'exclude': '*.0'}, [1, 2]),
        ({'min_share': 0.2}, [0]),
    ])
    def test_by_kind_pattern_and_share(self, options, names):
        slots, excluded = slots_of(self.model, (1, 8, 8, 8), **options)
        assert list(slots) == [f'body.{i}' for i in names]
        assert len(slots) + len(excluded) == 4
        assert all(excluded.values())

    def test_unknown_names(self):
        with pytest.raises(SlotError, match=r"unknown kind of slot 'conv5x5'.*conv3x3"):
            find_slots(self.model, (1, 8, 8, 8), kinds=('conv5x5',))
        with pytest.raises(SlotError, match=r"no layer matches 'body.O'; did you mean .*body.0"):
            find_slots(self.model, (1, 8, 8, 8), include='body.O')

    def test_groups(self):
        slots, _ = find_slots(Head(conv(8, 8), conv(8, 8), conv(8, 16, stride=2), features=16), (1, 8, 8, 8))
        assert {k: len(v) for k, v in group_slots(slots).items()} == {'conv3x3 8->8 @8': 2, 'conv3x3 8->16 @4': 1}
        assert list(group_slots(slots, 'stage')) == ['@8', '@4']
        assert len(group_slots(slots, 'slot')) == 3
        assert len(group_slots(slots, 'model')) == len(group_slots(slots, 'kind')) == 1
        with pytest.raises(SlotError, match='not by'):
            group_slots(slots, 'colour')


class TestGroups:
    @pytest.mark.parametrize(('channels', 'g'), [((64, 128), 32), ((24, 40), 8), ((40, 80), 20), ((48, 96), 24)])
    def test_divide_all_channel_counts(self, channels, g):
        model = Head(*[conv(a, b) for a, b in zip(channels, channels[1:], strict=False)], features=channels[-1])
        slots, _ = find_slots(model, (1, channels[0], 8, 8))
        assert {s.sizes['g'] for s in slots} == {common_groups(slots)} == {g}
        assert [b['g'] for b in bindings(slots, g=6)] == [max(d for d in range(1, 7) if g % d == 0)] * len(slots)

    def test_odd_channel_counts_leave_the_cheaper_slots_out(self):
        slots, excluded = slots_of(Head(conv(8, 64), conv(64, 64), conv(64, 7), features=7), (1, 8, 8, 8))
        assert list(slots) == ['body.0', 'body.1']
        assert {s.sizes['g'] for s in slots.values()} == {8}
        assert '8 groups, which fit the other slots, do not divide' in excluded['body.2']

    def test_coefficients(self):
        model = Head(conv(8, 8, 5), conv(8, 8), features=8)
        slots, _ = slots_of(model, (1, 8, 8, 8), coefficients={'k_1': 'kernel', 's': 4, 'g': 4, 't': 3})
        assert [s.sizes['k_1'] for s in slots.values()] == [5, 3]
        assert {(s.sizes['k_2'], s.sizes['s'], s.sizes['g'], s.sizes['t']) for s in slots.values()} == {(7, 4, 4, 3)}
        for wrong in ({'k_1': 0}, {'g': 'kernel'}, {'s': 'two'}):
            with pytest.raises(SlotError, match='positive integers'):
                find_slots(model, (1, 8, 8, 8), coefficients=wrong)


class TestTable:
    def test_rows_and_text(self):
        slots, excluded = find_slots(Head(conv(3, 8), conv(8, 8, stride=2), features=8), (1, 3, 16, 16))
        rows = slot_rows(slots, excluded, latency_ms={'body.1': 0.25})
        assert [r['name'] for r in rows] == ['body.1', 'body.0', 'head']
        text = format_slot_table(rows)
        assert 'C_in=8 C_out=8 H=8 g=8' in text
        assert '0.250' in text
        assert 'too small' in text
        assert '1 slots hold' in text

    @pytest.mark.parametrize(('number', 'text'), [(7, '7'), (1536, '1.54k'), (1_814_073_344, '1.81G'), (None, '')])
    def test_quantities(self, number, text):
        assert quantity(number) == text
