"""`syno-nni show`: print what an operator is, and draw it."""
from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from syno_nni.errors import GraphError, SizeError
from syno_nni.files import check_path, show_path
from syno_nni.text import quantity

from .arguments import SubParsers, binding
from .terminal import say

if TYPE_CHECKING:
    from syno_nni.operator import Operator


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        'show', parents=[common], help='print and draw an operator: formula, shapes, MACs, params, graph',
        description='Print an operator, given as a formula, the id of a candidate, or a name of the model zoo or of a '
        'classic layer (conv2d, ...): how it reads its input, which weight has which index, and what one output sees.')
    parser.add_argument('operator', metavar='FORMULA|ID|NAME')
    parser.add_argument('--sizes', type=binding, default={}, metavar='C_in=64,H=56,...',
                        help='sizes of the variables (default: those of a ResNet-18 layer)')
    parser.add_argument('--graph', type=Path, metavar='FILE', help='draw it into a .svg, .txt or .dot file, or with Graphviz a '
                        '.png or .pdf file, instead of on the terminal')
    parser.add_argument('--run-dir', type=Path, metavar='DIR', help='where to look an id up (default: all in runs/)')
    parser.add_argument('--json', action='store_true', help='print it as JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from .find_operator import find_operator
    operator, source = find_operator(args.operator, args.run_dir)
    facts = describe(operator, args.sizes, source)
    if args.graph is not None:
        facts['graph'] = str(_drawn(operator, args.graph, facts['sizes']))
    if args.json:
        say(json.dumps(facts | {'operator': operator.to_dict()}, indent=2))
        return 0
    say(_text(facts))
    if args.graph is None:
        from syno_nni.operator.draw import to_text_drawing
        say(f'\n{to_text_drawing(operator, facts["sizes"])}')
    return 0


def describe(operator: Operator, sizes: Mapping[str, int], source: str = '') -> dict[str, Any]:
    """What there is to know about an operator at ``sizes``, filled up from the example sizes, as plain data.

    Raises:
        SizeError: ``sizes`` has a variable that the operator lacks, or the operator has no shape at these sizes.
    """
    from syno_nni.operator.example_sizes import EXAMPLE_SIZES
    wanted = sorted(operator.variables, key=[*EXAMPLE_SIZES, *sorted(operator.variables)].index)
    unknown = sorted(set(sizes) - set(wanted))
    if unknown:
        raise SizeError(f'--sizes: the operator has no variable {unknown[0]}; it has {", ".join(wanted)}')
    missing = [v for v in wanted if v not in sizes and v not in EXAMPLE_SIZES]
    if missing:
        raise SizeError(f'--sizes: no size for {", ".join(missing)}; add {missing[0]}=NUMBER')
    at = {v: sizes.get(v, EXAMPLE_SIZES.get(v, 0)) for v in wanted}
    return {'id': operator.id, 'source': source, 'formula': str(operator), 'sizes': at,
            'input': list(operator.input_shape(at)), 'output': list(operator.output_shape(at)),
            'weights': [list(shape) for shape in operator.weight_shapes(at)],
            'macs': operator.macs(at), 'params': operator.params(at)}


def _text(facts: Mapping[str, Any]) -> str:
    lines = [facts['formula'], '', f'id       {facts["id"]}']
    if facts['source']:
        lines.append(f'from     {facts["source"]}')
    lines += [f'sizes    {" ".join(f"{v}={n}" for v, n in facts["sizes"].items())}',
              f'input    {_shape(facts["input"])}', f'output   {_shape(facts["output"])}']
    lines += [f'w{i:<7} {_shape(shape)}' for i, shape in enumerate(facts['weights'], 1)]
    lines += [f'MACs     {quantity(facts["macs"])} ({facts["macs"]})',
              f'params   {quantity(facts["params"])} ({facts["params"]})']
    if 'graph' in facts:
        lines.append(f'graph    {facts["graph"]}')
    return '\n'.join(lines)


def _shape(shape: list[int]) -> str:
    return ' x '.join(map(str, shape))


def _drawn(operator: Operator, path: Path, sizes: Mapping[str, int]) -> Path:
    from syno_nni.operator.draw import draw
    check_path(path, error=GraphError, what='the graph')
    try:
        return draw(operator, path, sizes)
    except OSError as error:
        raise GraphError(f'cannot write the graph {show_path(path)}: {error.strerror or error}') from None
