"""An operator as a text drawing for terminals and logs, and the words that all drawings use."""
from __future__ import annotations

from .canonical import canonical_form
from .expr import Coordinate, Iterator, MergeLeft, MergeRight, Out, Shift, Split, Stride, Sum, Unfold
from .formula import names
from .graph import Graph, tensors
from .receptive_field import receptive_field
from .size import Binding
from .touches import touches

LEGEND = 'Where lines of several tensors end in one place, they are multiplied; Σ sums the products.'


def title(node: Coordinate, name: dict[Iterator, str]) -> tuple[str, str]:
    """What a node is called, and what it does to the dimension that comes from above, in words."""
    match node:
        case Out():
            return f'{name[node]}', ''
        case Sum():
            return f'Σ {name[node]}', ''
        case Split():
            return 'Split', f'cut into {node.left.size} × {node.right.size}'
        case Unfold():
            return 'Unfold', f'slide a window of {node.right.size}'
        case Shift():
            return 'Shift', f'roll by {node.offset:+d}'
        case Stride():
            return 'Stride', f'keep every {node.step}-th'
        case MergeLeft() | MergeRight():
            return 'Merge', f'join {node.of.size / node.block} × {node.block}'
    raise AssertionError(node)


def to_text_drawing(op: Graph, sizes: Binding) -> str:
    """All that there is to see of an operator, as text: the tree, which tensor has which index, the receptive field.

    Raises:
        SizeError: a size is not an integer at the binding.
    """
    op = canonical_form(op)
    parts = ['How the dimensions of each tensor are read', to_text_graph(op), '',
             'Which tensor has which index (● a dimension of its own, ○ part of one)', touches(op).to_text()]
    seen = receptive_field(op, sizes)
    if seen is not None:
        own = '' if seen.center is None else " (◆ or ◇: the output's own position)"
        parts += ['', f'Receptive field: {seen.words()}{own}', seen.to_text()]
    return '\n'.join(parts)


def to_text_graph(op: Graph) -> str:
    """The picture as text: a tree for every tensor, from its dimensions down to output indices and sums."""
    op = canonical_form(op)
    name = names(op)
    lines: list[str] = []
    for tensor, coordinates in tensors(op):
        lines.append('input' if tensor == 'in' else f'weight {tensor}')
        for at, coordinate in enumerate(coordinates):
            last = at == len(coordinates) - 1
            block = _tree(coordinate, name)
            lines.append(f'{"└─" if last else "├─"} {block[0]}')
            lines += [f'{"  " if last else "│ "} {line}' for line in block[1:]]
        if not coordinates:
            lines.append('└─ a scalar')
    lines.append(f'output [{", ".join(f"{name[o]}: {o.size}" for o in op.outs())}]')
    used = {leaf for _, coordinates in tensors(op) for c in coordinates for leaf in c.iterators()}
    idle = [f'{name[it]} ({it.size})' for it in op.iterators() if it not in used]
    return '\n'.join([*lines, *([f'in no tensor, so repeated: {", ".join(idle)}'] if idle else [])])


def _tree(node: Coordinate, name: dict[Iterator, str]) -> list[str]:
    head, words = title(node, name)
    if isinstance(node, Iterator):
        return [f'{node.size} ── {"output " if isinstance(node, Out) else ""}{head}']
    if isinstance(node, (MergeLeft, MergeRight)):
        words += ': outer' if isinstance(node, MergeLeft) else ': inner'
    lead = f'{node.size} ── {head} ({words})'
    blocks = [_tree(child, name) for child in node.bottom]
    if len(blocks) == 1:
        first, *rest = blocks[0]
        return [f'{lead} ── {first}', *(' ' * (len(lead) + 4) + line for line in rest)]
    pad = ' ' * (len(lead) + 1)
    (first, *upper), (second, *lower) = blocks
    return [f'{lead} ─┬─ {first}', *(f'{pad} │  {line}' for line in upper), f'{pad} └─ {second}',
            *(f'{pad}    {line}' for line in lower)]
