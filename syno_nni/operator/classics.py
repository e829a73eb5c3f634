"""Hand-written operators: the layers everyone knows, and those the literature found, in the language of this project.

They start searches, check lowerings and make examples. Every constructor takes symbolic sizes (a ``Size``, a text such
as ``'C_in/g'``, or a number) and returns an `Operator` whose weights and weight dimensions stand in the order that
torch uses for the layer. Images are ``[N, C, H, W]``: ``width='H'``, the default, gives square maps that need one
variable; ``width='W'`` gives rectangular ones. Spatial extents stay as they are (stride 1, zero padding) unless a
docstring says otherwise. Nothing is averaged: the IR has no constants, so means come out as sums.

Every constructor raises SizeError for a malformed size and GraphError for sizes that make no legal operator.
"""
from __future__ import annotations

from syno_nni.errors import SizeError

from .operator import Operator
from .size import Size, SizeLike


def conv2d(kernel: SizeLike = 'k_1', width: SizeLike = 'H') -> Operator:
    """A dense convolution; weight ``[C_out, C_in, k, k]``. Exactly ``F.conv2d(padding='same')`` for odd k."""
    k, w = _sizes(kernel, width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in, i:{k}, j:{k}] '
                          f'in[n, c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]')


def grouped_conv2d(groups: SizeLike = 'g', kernel: SizeLike = 'k_1', width: SizeLike = 'H') -> Operator:
    """A convolution in ``groups`` groups; weight ``[C_out, C_in/groups, k, k]``."""
    g, k, w = _sizes(groups, kernel, width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in/{g}, i:{k}, j:{k}] '
                          f'in[n, (o//(C_out/{g}))*(C_in/{g}) + c, unfold(h, i), unfold(w, j)] * w1[o, c, i, j]')


def depthwise(channels: SizeLike = 'C_in', kernel: SizeLike = 'k_1', width: SizeLike = 'H') -> Operator:
    """One filter for each channel; weight ``[C, k, k]``. Input and output have the same channels."""
    channel, k, w = _sizes(channels, kernel, width)
    return Operator.parse(f'out[n:N, c:{channel}, h:H, w:{w}] = sum[i:{k}, j:{k}] '
                          f'in[n, c, unfold(h, i), unfold(w, j)] * w1[c, i, j]')


def depthwise_separable(kernel: SizeLike = 'k_1', width: SizeLike = 'H') -> Operator:
    """Depthwise, then pointwise; weights ``[C_in, k, k]`` and ``[C_out, C_in]``. "MobileNets", 2017."""
    k, w = _sizes(kernel, width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in, i:{k}, j:{k}] '
                          f'in[n, c, unfold(h, i), unfold(w, j)] * w1[c, i, j] * w2[o, c]')


def pointwise(width: SizeLike = 'H') -> Operator:
    """A 1x1 convolution; weight ``[C_out, C_in]``."""
    w, = _sizes(width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in] in[n, c, h, w] * w1[o, c]')


def dilated_conv2d(dilation: SizeLike = 2, kernel: SizeLike = 'k_1', width: SizeLike = 'H',
                   half: int | None = None) -> Operator:
    """A dilated convolution; weight ``[C_out, C_in, k, k]``. Exactly torch's with ``padding=dilation*(k//2)``, odd k.

    Striding the window index makes a window of ``k*d`` positions, whose centre ``k*d//2`` lies ``d//2`` beyond the
    middle tap ``d*(k//2)``. A Shift of the strided index by ``d//2`` moves the taps to the middle; it never wraps,
    since the last tap is ``d`` before the end. (For even k both centres agree, so pass ``half=0``.)

    Args:
        dilation: d, a number or a symbolic size.
        half: ``d//2``. A Shift offset is a number, so it must be given when d is symbolic.

    Raises:
        SizeError: ``dilation`` is symbolic and ``half`` is missing.
    """
    d, k, w = _sizes(dilation, kernel, width)
    if half is None:
        size = Size.of(dilation)
        if size.variables or size.coefficient.denominator != 1:
            raise SizeError(f'dilated_conv2d: half must be given for the symbolic dilation {size}; it is '
                            'dilation//2, so 1 for a dilation of 2')
        half = int(size.coefficient) // 2
    tap_i, tap_j = (f'shift(stride({x}, {d}), {half})' if half else f'stride({x}, {d})' for x in 'ij')
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in, i:{k}, j:{k}] '
                          f'in[n, c, unfold(h, {tap_i}), unfold(w, {tap_j})] * w1[o, c, i, j]')


def average_pool(window: SizeLike = 's', channels: SizeLike = 'C_in', width: SizeLike = 'H') -> Operator:
    """Pooling over windows that do not overlap: ``[N, C, H, W]`` to ``[N, C, H/s, W/s]``; no weight.

    Sums, where torch averages: divide by ``s*s``.
    """
    s, channel, w = _sizes(window, channels, width)
    return Operator.parse(f'out[n:N, c:{channel}, h:H/{s}, w:{w}/{s}] = sum[i:{s}, j:{s}] '
                          f'in[n, c, h*{s} + i, w*{s} + j]')


def box_sum(kernel: SizeLike = 'k_1', channels: SizeLike = 'C_in', width: SizeLike = 'H') -> Operator:
    """The sum over a sliding window; no weight. ``k*k`` times ``F.avg_pool2d(k, 1, k//2)`` for odd k."""
    k, channel, w = _sizes(kernel, channels, width)
    return Operator.parse(f'out[n:N, c:{channel}, h:H, w:{w}] = sum[i:{k}, j:{k}] in[n, c, unfold(h, i), unfold(w, j)]')


def shift_conv(window: SizeLike = 's', width: SizeLike = 'H') -> Operator:
    """A pointwise convolution whose output channels, in ``window**2`` groups, look in different directions.

    Group (a, b) reads the pixel displaced by ``(a - window//2, b - window//2)``, zero outside: the "Shift" network
    (Wu et al., 2018) with the shift after the pointwise convolution instead of before it. Before it, the index of a
    channel group would be read twice from the input, as channel and as displacement, which no primitive makes. Weight
    ``[C_out, C_in]``.
    """
    k, w = _sizes(window, width)
    group = f'(o//(C_out/({k}*{k})))'
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in] '
                          f'in[n, c, unfold(h, {group}//{k}), unfold(w, {group}%{k})] * w1[o, c]')


def separable(rank: SizeLike = 'C_out', kernel: SizeLike = 'k_1', width: SizeLike = 'H') -> Operator:
    """A k x 1 convolution to ``rank`` channels, then 1 x k; weights ``[R, C_in, k]`` and ``[C_out, R, k]``."""
    r, k, w = _sizes(rank, kernel, width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in, i:{k}, j:{k}, d:{r}] '
                          f'in[n, c, unfold(h, i), unfold(w, j)] * w1[d, c, i] * w2[o, d, j]')


def low_rank(rank: SizeLike = 'C_out/s', kernel: SizeLike = 'k_1', width: SizeLike = 'H') -> Operator:
    """A pointwise convolution to ``rank`` channels, then k x k; weights ``[R, C_in]`` and ``[C_out, R, k, k]``."""
    r, k, w = _sizes(rank, kernel, width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in, i:{k}, j:{k}, d:{r}] '
                          f'in[n, c, unfold(h, i), unfold(w, j)] * w1[d, c] * w2[o, d, i, j]')


def conv1d(kernel: SizeLike = 'k_1', length: SizeLike = 'L') -> Operator:
    """``[N, C_in, L]`` to ``[N, C_out, L]``; weight ``[C_out, C_in, k]``."""
    k, length = _sizes(kernel, length)
    return Operator.parse(f'out[n:N, o:C_out, l:{length}] = sum[c:C_in, i:{k}] in[n, c, unfold(l, i)] * w1[o, c, i]')


def linear() -> Operator:
    """A linear layer over tokens: ``[N, T, C_in]`` to ``[N, T, C_out]``; weight ``[C_out, C_in]``."""
    return Operator.parse('out[n:N, t:T, o:C_out] = sum[c:C_in] in[n, t, c] * w1[o, c]')


def low_rank_linear(rank: SizeLike = 'C_in/s') -> Operator:
    """Two linear layers through ``rank`` features; weights ``[R, C_in]`` and ``[C_out, R]``."""
    r, = _sizes(rank)
    return Operator.parse(f'out[n:N, t:T, o:C_out] = sum[c:C_in, d:{r}] in[n, t, c] * w1[d, c] * w2[o, d]')


def grouped_linear(groups: SizeLike = 'g') -> Operator:
    """A linear layer in ``groups`` groups of features; weight ``[C_out, C_in/groups]``."""
    g, = _sizes(groups)
    return Operator.parse(f'out[n:N, t:T, o:C_out] = sum[c:C_in/{g}] '
                          f'in[n, t, (o//(C_out/{g}))*(C_in/{g}) + c] * w1[o, c]')


def operator_1(width: SizeLike = 'H') -> Operator:
    """Operator 1 of "Syno" (ASPLOS 2025), 07889 in its artifact: two weights that share a column tap.

    Grouped 1 x k, then k x k with the same column tap, through ``C_out/(g*s)`` channels in each of ``g`` groups.
    """
    w, = _sizes(width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[r:g, c:C_in/g, i:k_1, j:k_1, d:C_out/g/s] '
                          f'in[n, r*(C_in/g) + c, unfold(h, i), unfold(w, j)] '
                          f'* w1[o, r, i, j, d] * w2[j, d, r*(C_in/g) + c]')


def operator_2(width: SizeLike = 'H') -> Operator:
    """Operator 2 of "Syno" (ASPLOS 2025), 07754 in its artifact: grouped 1 x k, then k x 1 on rows rolled by one."""
    w, = _sizes(width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[r:g, c:C_in/g, i:k_1, j:k_1, d:C_out/g/s] '
                          f'in[n, r*(C_in/g) + c, shift(unfold(h, i), 1), unfold(w, j)] '
                          f'* w1[o, r, i, d] * w2[j, d, r*(C_in/g) + c]')


def nas_pte_3(parts: SizeLike = 's', kernel: SizeLike = 'k_1', width: SizeLike = 'H') -> Operator:
    """Sequence 3 of NAS-PTE (ASPLOS 2021): the rows in ``parts`` bands, each convolved and padded by itself.

    Weight ``[parts, C_out, C_in, k, k]``. Sequences 1 and 2 concatenate *different* convolutions along channels: two
    grouped ones with unlike groups, and a dense one of 16 channels beside a grouped one of the rest. A product of
    monomial sizes says neither; each branch of them is a `conv2d` or a `grouped_conv2d` of its own.
    """
    s, k, w = _sizes(parts, kernel, width)
    return Operator.parse(f'out[n:N, o:C_out, h:H, w:{w}] = sum[c:C_in, i:{k}, j:{k}] '
                          f'in[n, c, (h//(H/{s}))*(H/{s}) + unfold(h%(H/{s}), i), unfold(w, j)] '
                          f'* w1[h//(H/{s}), o, c, i, j]')


CLASSICS = {f.__name__: f for f in (
    conv2d, grouped_conv2d, depthwise, depthwise_separable, pointwise, dilated_conv2d, average_pool, box_sum,
    shift_conv, separable, low_rank, conv1d, linear, low_rank_linear, grouped_linear, operator_1, operator_2,
    nas_pte_3)}


def _sizes(*sizes: SizeLike) -> list[str]:
    """Sizes as text that stands anywhere in a formula."""
    texts = [str(Size.of(size)) for size in sizes]
    return [text if text.isidentifier() or text.isdigit() else f'({text})' for text in texts]


__all__ = [*CLASSICS, 'CLASSICS']
