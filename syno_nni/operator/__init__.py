"""Operators: sizes, coordinates, graph, formula, canonical form, legality, reference, cost, drawing. numpy only."""
from . import classics, draw
from .dot_reader import load_graph_dot, read_graph_dot
from .operator import Operator
from .size import Size

__all__ = ['Operator', 'Size', 'classics', 'draw', 'load_graph_dot', 'read_graph_dot']
