"""Layouts: which axis of a layer's input is what."""
from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from syno_nni.errors import SlotError


class Layout(Enum):
    """The axes of a layer's input by name; the value is the role of each: N batch, C channels, S anything else."""
    NCHW = 'NCSS'
    NCL = 'NCS'
    NC = 'NC'
    NTC = 'NSC'
    NHWC = 'NSSC'
    C = 'NSSSC'
    """Channels last behind any number of axes."""

    @staticmethod
    def named(name: str) -> Layout:
        """The layout that a :class:`~syno_nni.search_spaces.slots.Slot` names.

        Raises:
            SlotError: there is none of this name.
        """
        try:
            return Layout[name]
        except KeyError:
            raise SlotError(f'unknown layout {name!r}: choose from {", ".join(Layout.__members__)}') from None

    @staticmethod
    def of_linear(dimensions: int) -> Layout:
        """The layout of a linear layer whose input has so many dimensions, batch included."""
        return {2: Layout.NC, 3: Layout.NTC, 4: Layout.NHWC}.get(dimensions, Layout.C)

    @staticmethod
    def of_convolution(axes: int) -> Layout:
        """The layout of a convolution over one axis or two."""
        return Layout.NCL if axes == 1 else Layout.NCHW

    @property
    def roles(self) -> str:
        return self.value

    @property
    def is_map(self) -> bool:
        """Whether it has a height and a width."""
        return self in (Layout.NCHW, Layout.NHWC)

    @property
    def channels_first(self) -> bool:
        return self in (Layout.NCHW, Layout.NCL)

    def channel_axis(self, dimensions: int) -> int:
        """Which of so many dimensions, batch included, is that of the channels."""
        return 1 if self.channels_first else dimensions - 1

    def axes(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The extents of a slot's axes beside batch and channels, behind its stride; tokens as one axis."""
        if self.is_map and 'H' in sizes:
            return sizes['H'], sizes.get('W', sizes['H'])
        if self is Layout.NCL:
            return (sizes['L'],)
        return () if self is Layout.NC else (sizes.get('T', 1),)

    def shape(self, batch: int, channels: int, axes: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a tensor with these axes."""
        return (batch, channels, *axes) if self.channels_first else (batch, *axes, channels)
