"""Each primitive by hand, and what torch says about the layers that it knows."""
from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from syno_nni.errors import GraphError, SizeError, SynoError
from syno_nni.operator import Operator, classics
from syno_nni.operator.reference import read_mask

SIZES = {'N': 2, 'C_in': 8, 'C_out': 12, 'H': 6, 'W': 5, 'T': 3, 'L': 7, 'k_1': 3, 's': 2, 'g': 4}


def run(op: Operator | str, *arrays: np.ndarray | list, **sizes: int) -> np.ndarray:
    op = Operator.parse(op) if isinstance(op, str) else op
    x, *weights = (np.asarray(a, dtype=float) for a in arrays)
    return op.reference(x, weights, sizes)


def drawn(op: Operator, sizes: dict[str, int] = SIZES) -> tuple[np.ndarray, list[np.ndarray], list[torch.Tensor]]:
    rng = np.random.default_rng(0)
    x, *weights = (rng.standard_normal(s) for s in (op.input_shape(sizes), *op.weight_shapes(sizes)))
    return op.reference(x, weights, sizes), [x, *weights], [torch.from_numpy(a) for a in (x, *weights)]


def same(op: Operator, expected: object, sizes: dict[str, int] = SIZES) -> None:
    """``expected``: a function of the input and the weights as torch tensors."""
    out, _, tensors = drawn(op, sizes)
    np.testing.assert_allclose(out, expected(*tensors).numpy(), rtol=1e-10, atol=1e-10)  # type: ignore[operator]


# ---- primitives ----

def test_shift_is_cyclic_and_reads_ahead() -> None:
    assert run('out[h:H] = in[shift(h, 1)]', [1, 2, 3, 4], H=4).tolist() == [2, 3, 4, 1]
    assert run('out[h:H] = in[shift(h, -1)]', [1, 2, 3, 4], H=4).tolist() == [4, 1, 2, 3]
    assert run('out[h:H] = in[shift(h, 9)]', [1, 2, 3, 4], H=4).tolist() == [2, 3, 4, 1]


def test_unfold_pads_half_the_window_on_the_left() -> None:
    assert run('out[h:H, i:k] = in[unfold(h, i)]', [1, 2, 3], H=3, k=3).tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0]]
    assert run('out[h:H, i:k] = in[unfold(h, i)]', [1, 2, 3], H=3, k=2).tolist() == [[0, 1], [1, 2], [2, 3]]
    assert run('out[h:H, i:k] = in[unfold(h, i)]', [1, 2], H=2, k=5).tolist() == [[0, 0, 1, 2, 0], [0, 1, 2, 0, 0]]


def test_nested_unfolds_zero_what_overflows_between() -> None:
    """``h + i - 1`` leaves the dimension although adding ``j - 1`` would lead back into it."""
    out = run('out[h:H, i:k, j:k] = in[unfold(unfold(h, i), j)]', [1, 2, 3], H=3, k=3)
    assert out[0, 0].tolist() == [0, 0, 0]
    assert out[0, 1].tolist() == [0, 1, 2]
    assert out[2, 2].tolist() == [0, 0, 0]


def test_a_window_of_a_weight_zeroes_the_product() -> None:
    assert run('out[h:H, i:k] = in[h, i] * w1[unfold(h, i)]', np.ones((3, 3)), [1, 2, 3], H=3, k=3).tolist() == [
        [0, 1, 2], [1, 2, 3], [2, 3, 0]]


def test_stride_split_merge() -> None:
    assert run('out[h:H] = in[stride(h, 2)]', [1, 2, 3, 4, 5, 6], H=3).tolist() == [1, 3, 5]
    assert run('out[h:H, i:s] = in[h*s + i]', [1, 2, 3, 4, 5, 6], H=3, s=2).tolist() == [[1, 2], [3, 4], [5, 6]]
    assert run('out[h:H] = in[h//2, h%2]', [[1, 2], [3, 4], [5, 6]], H=6).tolist() == [1, 2, 3, 4, 5, 6]


def test_expand_share_reduce() -> None:
    assert run('out[h:H, r:s] = in[h]', [1, 2], H=2, s=3).tolist() == [[1, 1, 1], [2, 2, 2]]
    assert run('out[h:H] = in[h//2]', [1, 2], H=4).tolist() == [1, 1, 2, 2]
    assert run('out[h:H] = in[h%2]', [1, 2], H=4).tolist() == [1, 2, 1, 2]
    assert run('out[] = sum[h:H] in[h] * w1[h]', [1, 2, 3], [4, 5, 6], H=3) == 32
    assert run('out[h:H] = sum[r:g] in[h]', [1, 2], H=2, g=5).tolist() == [5, 10]
    assert run('out[h:H] = in[h] * w1[]', [1, 2], 3, H=2).tolist() == [3, 6]


# ---- classics, against torch ----

@pytest.mark.parametrize('kernel', [1, 3, 5])
@pytest.mark.parametrize('width', ['H', 'W'])
def test_conv2d(kernel: int, width: str) -> None:
    same(classics.conv2d(kernel, width), lambda x, w: F.conv2d(x, w, padding=kernel // 2))


@pytest.mark.parametrize('kernel', [2, 4])
def test_even_windows_have_one_more_tap_on_the_left(kernel: int) -> None:
    half = kernel // 2
    same(classics.conv2d(kernel), lambda x, w: F.conv2d(F.pad(x, (half, half - 1, half, half - 1)), w))


def test_grouped_and_depthwise() -> None:
    same(classics.grouped_conv2d(), lambda x, w: F.conv2d(x, w, padding=1, groups=4))
    same(classics.grouped_conv2d(2, 5), lambda x, w: F.conv2d(x, w, padding=2, groups=2))
    same(classics.depthwise(), lambda x, w: F.conv2d(x, w[:, None], padding=1, groups=8))
    same(classics.depthwise_separable(), lambda x, w1, w2: F.conv2d(
        F.conv2d(x, w1[:, None], padding=1, groups=8), w2[:, :, None, None]))


@pytest.mark.parametrize(('dilation', 'kernel', 'half'), [
    (2, 3, None), (3, 3, None), (2, 5, None), ('s', 3, 1), (1, 3, None)])
def test_dilated(dilation: int | str, kernel: int, half: int | None) -> None:
    d = 2 if dilation == 's' else int(dilation)
    same(classics.dilated_conv2d(dilation, kernel, half=half),
         lambda x, w: F.conv2d(x, w, padding=d * (kernel // 2), dilation=d))


@pytest.mark.parametrize(('kernel', 'dilation'), [(2, 2), (2, 3), (4, 2)])
def test_dilated_even_windows_need_no_shift(kernel: int, dilation: int) -> None:
    left = dilation * (kernel // 2)
    right = dilation * (kernel - 1) - left
    same(classics.dilated_conv2d(dilation, kernel, half=0),
         lambda x, w: F.conv2d(F.pad(x, (left, right, left, right)), w, dilation=dilation))


def test_a_symbolic_dilation_needs_its_half() -> None:
    with pytest.raises(SizeError, match='half must be given'):
        classics.dilated_conv2d('s')


def test_pools() -> None:
    same(classics.average_pool(), lambda x: 4 * F.avg_pool2d(x, 2))
    same(classics.box_sum(), lambda x: 9 * F.avg_pool2d(x, 3, 1, 1))


def test_pointwise_low_rank_separable() -> None:
    same(classics.pointwise(), lambda x, w: F.conv2d(x, w[:, :, None, None]))
    same(classics.low_rank(), lambda x, w1, w2: F.conv2d(F.conv2d(x, w1[:, :, None, None]), w2, padding=1))
    same(classics.separable('g'), lambda x, w1, w2: F.conv2d(
        F.conv2d(x, w1[..., None], padding=(1, 0)), w2[:, :, None], padding=(0, 1)))


@pytest.mark.parametrize(('window', 'channels'), [(2, 12), (3, 18)])
def test_shift_conv_displaces_groups_of_output_channels(window: int, channels: int) -> None:
    def expected(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
        full = F.pad(F.conv2d(x, w[:, :, None, None]), (window, window, window, window))
        groups = full.chunk(window ** 2, dim=1)
        moved = []
        for number, group in enumerate(groups):
            up, left = (window + step - window // 2 for step in divmod(number, window))
            moved.append(group[:, :, up:up + 6, left:left + 6])
        return torch.cat(moved, 1)
    same(classics.shift_conv(window), expected, {**SIZES, 'C_out': channels})


def test_linear_and_conv1d() -> None:
    same(classics.linear(), F.linear)
    same(classics.low_rank_linear(), lambda x, w1, w2: F.linear(F.linear(x, w1), w2))
    same(classics.conv1d(), lambda x, w: F.conv1d(x, w, padding=1))
    same(classics.grouped_linear(), lambda x, w: torch.cat(
        [F.linear(a, b) for a, b in zip(x.chunk(4, 2), w.chunk(4, 0))], 2))


def test_nas_pte_3_convolves_bands_apart() -> None:
    same(classics.nas_pte_3(), lambda x, w: torch.cat(
        [F.conv2d(band, part, padding=1) for band, part in zip(x.chunk(2, 2), w)], 2))


def test_operator_1_in_two_stages() -> None:
    """Grouped 1 x k to a few channels, then for every column tap a k x 1 of what that tap read."""
    def expected(x: torch.Tensor, w1: torch.Tensor, w2: torch.Tensor) -> torch.Tensor:
        taps = F.pad(x, (1, 1)).unfold(3, 3, 1).reshape(2, 4, 2, 6, 6, 3)
        stage = torch.einsum('nrchwj,jdrc->nrdhwj', taps, w2.reshape(3, -1, 4, 2))
        rows = F.pad(stage, (0, 0, 0, 0, 1, 1)).unfold(3, 3, 1)
        return torch.einsum('nrdhwji,orijd->nohw', rows, w1)
    same(classics.operator_1(), expected, {**SIZES, 'C_out': 16})


# ---- arguments ----

def test_gradients_are_those_of_finite_differences() -> None:
    """The reference is linear in every tensor, so a difference quotient is exact up to rounding."""
    op = classics.operator_2()
    sizes = {**SIZES, 'C_out': 16, 'H': 3}
    out, arrays, _ = drawn(op, sizes)
    step = [np.random.default_rng(1).standard_normal(a.shape) for a in arrays]
    for position in range(3):
        moved = [a + s * (i == position) for i, (a, s) in enumerate(zip(arrays, step))]
        alone = [s if i == position else a for i, (a, s) in enumerate(zip(arrays, step))]
        np.testing.assert_allclose(op.reference(moved[0], moved[1:], sizes) - out,
                                   op.reference(alone[0], alone[1:], sizes), atol=1e-10)


@pytest.mark.parametrize('shapes', [
    [(2, 8, 6, 6)], [(2, 8, 6, 5), (12, 8, 3, 3)], [(2, 8, 6, 6), (12, 8, 3, 3), (1,)], [()]])
def test_arrays_of_other_shapes_are_refused(shapes: list[tuple[int, ...]]) -> None:
    x, *weights = (np.zeros(s) for s in shapes)
    with pytest.raises(GraphError, match='wanted arrays of shapes'):
        classics.conv2d().reference(x, weights, SIZES)


@pytest.mark.parametrize('x', [None, 'text', [[1, 2], [3]], {}])
def test_what_is_no_array(x: object) -> None:
    with pytest.raises(GraphError):
        classics.box_sum().reference(x, [], SIZES)  # type: ignore[arg-type]


@pytest.mark.parametrize('sizes', [
    {}, None, {**SIZES, 'C_in': 9}, {**SIZES, 'H': 0}, {**SIZES, 'N': 10 ** 11}, {**SIZES, 'H': 10 ** 13}])
def test_bad_bindings(sizes: dict[str, int]) -> None:
    op = classics.grouped_conv2d()
    for call in (lambda: op.reference(np.zeros(1), [], sizes), lambda: read_mask(op, (0, 0, 0, 0), sizes),
                 lambda: op.check_sizes(sizes) if sizes and sizes.get('N') == 2 else op.reference(0, [], sizes)):
        with pytest.raises(SynoError):
            call()


def test_absurd_work_is_refused_before_it_starts() -> None:
    with pytest.raises(SizeError, match='bind smaller values'):
        run('out[h:H] = sum[r:R] in[h]', [1, 2], H=2, R=10 ** 11)
    with pytest.raises(SizeError, match='bind smaller values'):
        run('out[h:H, r:R] = in[h]', [1, 2], H=2, R=10 ** 9)
    with pytest.raises(SizeError, match='bind smaller values'):
        read_mask(Operator.parse('out[h:H] = in[stride(h, R)]'), (0,), {'H': 2, 'R': 10 ** 10})
    with pytest.raises(SizeError, match='62 bits'):
        run('out[h:H] = in[stride(h, R^9)//R^9]', [1, 2], H=2, R=10 ** 11)


def test_a_long_sum_is_cut_into_pieces() -> None:
    assert run('out[h:H] = sum[r:R] in[h] * w1[r//R]', [1, 2], [3], H=2, R=2 ** 21 + 1).tolist() == [
        3 * (2 ** 21 + 1), 6 * (2 ** 21 + 1)]


@pytest.mark.parametrize('position', [(), (0, 0, 0), (0, 0, 0, 6), (0, 0, 0, -1), (5, 0, 0, 0)])
def test_read_mask_wants_a_position(position: tuple[int, ...]) -> None:
    with pytest.raises(GraphError, match='position'):
        read_mask(classics.conv2d(), position, SIZES)
