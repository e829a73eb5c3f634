"""The report of a run, made from its journal's state alone: a table for terminals, a page to look at, data for programs.

What a journal does not hold (the model's slots, how operators run) may be added as a :class:`ModelFacts`.
"""
from .data import report_data
from .files import REPORT_FILES, write_report
from .model_facts import ModelFacts, PlanFacts, SlotFacts
from .page import html_report
from .text import result_table, text_report

__all__ = ['REPORT_FILES', 'ModelFacts', 'PlanFacts', 'SlotFacts', 'html_report', 'report_data', 'result_table',
           'text_report', 'write_report']
