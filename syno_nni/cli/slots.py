"""`syno-nni slots`: the layers of a model that operators may replace, and why others are none."""
from __future__ import annotations

import argparse
import json

from .arguments import SubParsers, positive
from .terminal import say


def add_parser(commands: SubParsers, common: argparse.ArgumentParser) -> None:
    """Add the command."""
    parser = commands.add_parser(
        'slots', parents=[common], help='list the slots of a timm model',
        description='List the layers of a timm model that operators may replace, with sizes and their part of the '
        'work, and say why the other layers are no slots.')
    parser.add_argument('model', metavar='MODEL', help='name of a timm model, such as resnet18')
    parser.add_argument('--kinds', default='auto', help='kinds of layers, separated by commas (conv3x3, pointwise, '
                        'linear, ...), auto or all (default: %(default)s)')
    parser.add_argument('--include', default='', metavar='PATTERNS', help='layer names such as layer3.*')
    parser.add_argument('--exclude', default='', metavar='PATTERNS', help='layer names to keep')
    parser.add_argument('--image-size', type=positive, metavar='PIXELS', help='(default: the size the model declares)')
    parser.add_argument('--channels', type=positive, default=3, help='of the image (default: %(default)s)')
    parser.add_argument('--latency', action='store_true', help='measure every layer within the model (eager)')
    parser.add_argument('--json', action='store_true', help='print JSON')
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the command."""
    from syno_nni.backbone import create_backbone
    from syno_nni.search_spaces.selection import Selection
    from syno_nni.search_spaces.slot_table import format_slot_table, slot_rows
    model = create_backbone(args.model, in_chans=args.channels)
    shape = (1, args.channels, args.image_size, args.image_size) if args.image_size else None
    selected = Selection(args.kinds, args.include, args.exclude).of(model, shape)
    times = None
    if args.latency:
        from syno_nni.search_spaces.retrofit.measure_slots import layer_latencies
        times = layer_latencies(model, shape)
    rows = slot_rows(selected.slots, selected.excluded, times)
    say(json.dumps(rows, indent=2) if args.json else format_slot_table(rows))
    return 0
