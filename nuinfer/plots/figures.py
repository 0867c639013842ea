"""What every figure shares: the look, the panels, the files.

The look is mplhep's at half its size, which is a journal's column, with colours that colour-blind readers can tell
apart (Petroff, arXiv:2107.02270).  It is set inside `style` only; global settings stay as they were.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import matplotlib
import mplhep
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from ..store import write_atomically
from .inputs import Floats

__all__ = ["save", "style"]

BLUE, ORANGE, RED, VIOLET, GREY = "#5790fc", "#f89c20", "#e42536", "#964a8b", "#717581"
PALETTE = (BLUE, ORANGE, RED, VIOLET, GREY, "#7a21dd")
MARKERS = ("o", "s", "^", "D", "v", "P")
_DPI = 150

# mplhep's style is made for figures of 10 inches; this is the same at half the size, which is a journal's column.
# Font names are explicit and the mathematical font is a whole set: each text keeps both, so that they outlast `style`.
_STYLE: Any = {  # Any: matplotlib's stubs list the keys, differently in each version
    **mplhep.style.ROOT,
    "figure.figsize": (5.0, 5.0),
    "savefig.dpi": _DPI,
    "font.family": ["TeX Gyre Heros", "DejaVu Sans"],
    "font.size": 13.0,
    "legend.fontsize": 10.5,
    "legend.handlelength": 1.8,
    "mathtext.fontset": "stixsans",
    "mathtext.default": "it",
    "axes.unicode_minus": True,
    "axes.linewidth": 1.0,
    "lines.linewidth": 1.5,
    "lines.markersize": 4.5,
    # Heros has PostScript outlines, which matplotlib embeds as if they were TrueType (42): not a valid PDF.  Type 3 is.
    "pdf.fonttype": 3,
    **{f"{axis}tick.{which}.size": size for axis in "xy" for which, size in (("major", 6.0), ("minor", 3.0))},
    **{f"{axis}tick.{which}.width": 0.9 for axis in "xy" for which in ("major", "minor")},
    **{f"{axis}tick.{which}.pad": 5.0 for axis in "xy" for which in ("major", "minor")},
    **{f"{axis}tick.labelsize": 11.0 for axis in "xy"},
}


@contextmanager
def style() -> Iterator[None]:
    """The look of these figures, for figures of your own: inside the ``with`` block only.

    It also works as a decorator of a function, ``@style()``.

    >>> before = matplotlib.rcParams["font.size"]
    >>> with style():
    ...     matplotlib.rcParams["font.size"]
    13.0
    >>> matplotlib.rcParams["font.size"] == before
    True
    """
    with matplotlib.rc_context(_STYLE):
        yield
        interactive = matplotlib.is_interactive()
    # pyplot's first figure chooses the backend, and a notebook's switches this on: it has to outlast the context
    matplotlib.interactive(interactive)


def save(figure: Figure, path: str | os.PathLike[str]) -> tuple[Path, Path]:
    """Write ``path.png`` (150 dots per inch) and ``path.pdf`` (vectors), each whole or not at all; give their paths.

    The folder is made if needed.  The PDF bears no date, so that the same figure gives the same file.

    Raises
    ------
    TypeError
        for something else than a figure (``ax.figure`` is the figure of an axes).
    ValueError
        for a path that has a suffix already.

    >>> import tempfile
    >>> from nuinfer.plots import correlation
    >>> ax = correlation([[1.0, 0.0], [0.0, 1.0]], [0, 1, 2])
    >>> [made.name for made in save(ax.figure, Path(tempfile.mkdtemp()) / "correlation")]
    ['correlation.png', 'correlation.pdf']
    """
    if not isinstance(figure, Figure):
        raise TypeError(f"expected a matplotlib figure, found {type(figure).__name__}; an axes' figure is ax.figure")
    plain = Path(path)
    if plain.suffix.lower() in (".png", ".pdf", ".svg", ".eps", ".jpg"):
        raise ValueError(
            f"{plain}: expected a path without suffix, found {plain.suffix!r}; PNG and PDF are both written"
        )
    png, pdf = (plain.with_name(plain.name + suffix) for suffix in (".png", ".pdf"))
    with style():
        write_atomically(png, lambda temporary: figure.savefig(temporary, dpi=_DPI))
        write_atomically(pdf, lambda temporary: figure.savefig(temporary, metadata={"CreationDate": None}))
    return png, pdf


class _Figure(Figure):
    """A figure that is not registered with pyplot, which a notebook can show all the same."""

    def _repr_png_(self) -> bytes:
        buffer = BytesIO()
        with style():
            self.savefig(buffer, format="png", dpi=_DPI / 2)
        return buffer.getvalue()


def one_panel(
    ax: Axes | None, layout: Literal["constrained", "compressed"] = "constrained", height: float = 4.2
) -> Axes:
    if ax is None:
        figure = _Figure(figsize=(5.0, height), layout=layout)
        ax = figure.subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax: expected a matplotlib Axes, found {type(ax).__name__}")
    return ax


def two_panels(axes: Sequence[Axes] | None, what: str) -> tuple[Axes, Axes]:
    if axes is None:
        figure = _Figure(figsize=(5.0, 5.0), layout="constrained")
        axes = figure.subplots(2, 1, sharex=True, height_ratios=(2.6, 1), gridspec_kw={"hspace": 0.03})
        figure.align_ylabels()
    pair = tuple(axes) if isinstance(axes, (Sequence, np.ndarray)) else (axes,)
    if len(pair) != 2 or not all(isinstance(panel, Axes) for panel in pair):
        found = ", ".join(type(panel).__name__ for panel in pair)
        raise TypeError(f"{what}: expected a pair of matplotlib Axes (main, lower), found {found or 'none'}")
    return pair[0], pair[1]


def height_of(ax: Axes) -> float:
    """The height of axes in inches, before a layout engine makes room for labels."""
    return float(ax.get_position().height * ax.get_figure(root=True).get_figheight())  # type: ignore[union-attr]


def width_of(ax: Axes) -> float:
    """The width of axes in inches, before a layout engine makes room for labels."""
    return float(ax.get_position().width * ax.get_figure(root=True).get_figwidth())  # type: ignore[union-attr]


def headroom(ax: Axes, *, rows: int) -> None:
    """Raise the upper limit, so that so many rows of a legend are above everything that is drawn."""
    room = min((0.15 + 0.2 * rows) / height_of(ax), 0.7)
    scale = ax.yaxis.get_transform()
    low, high = scale.transform(ax.get_ylim())
    ax.set_ylim(ax.get_ylim()[0], float(scale.inverted().transform([low + (high - low) / (1 - room)])[0]))


def ceiling(ax: Axes, lines: Sequence[Line2D], *, rows: int) -> None:
    """Cut lines off where the panel ends now, and make room for a legend above."""
    low, high = ax.get_ylim()
    for line in lines:
        line.set_clip_path(Rectangle((0, low), 1, high - low, transform=ax.get_yaxis_transform()))
    headroom(ax, rows=rows)


_PANEL_ROWS = 4  # of a legend, for which a figure has room


def legend_above(ax: Axes, lines: Sequence[Line2D], *, grows: bool) -> None:
    """A legend over the curves, which are cut off below it: in two columns where they fit, else in one.

    Labels too long even for one are broken after their first colon.  ``grows`` makes the figure higher for many rows.
    """
    handles, labels = ax.get_legend_handles_labels()
    columns = 2 if len(labels) > 3 and _legend_fits(ax, handles, labels, 2) else 1
    if columns == 1 and not _legend_fits(ax, handles, labels, 1):
        labels = [_broken(ax, handle, label) for handle, label in zip(handles, labels, strict=True)]
        _legend_fits(ax, handles, labels, 1)
    figure = ax.get_figure(root=True)
    # labels with errors above and below, or broken, are higher than a row
    height = ax.get_legend().get_window_extent().height / figure.dpi  # type: ignore[union-attr]
    rows = math.ceil(max(height / 0.2 - 0.5, len(labels) / columns))
    if grows:
        figure.set_figheight(figure.get_figheight() + 0.2 * max(rows - _PANEL_ROWS, 0))  # type: ignore[union-attr]
    ceiling(ax, lines, rows=rows)


def _legend_fits(ax: Axes, handles: Sequence[Any], labels: Sequence[str], columns: int) -> bool:
    """Draw a legend, and say whether it is no wider than the panel."""
    legend = ax.legend(handles, labels, loc="upper center", ncols=columns, columnspacing=1.2)
    legend.set_in_layout(False)  # a layout engine would make the panel small until a wide legend fits beside it
    dots = ax.get_figure(root=True).dpi  # type: ignore[union-attr]
    frame = 2 * legend.borderpad * float(legend.get_texts()[0].get_fontsize()) / 72  # inches, without a line
    return bool(legend.get_window_extent().width / dots - frame < width_of(ax))


def _broken(ax: Axes, handle: Any, label: str) -> str:
    return label if _legend_fits(ax, [handle], [label], 1) else label.replace(": ", ":\n", 1)


def triangles(ratio: Axes, at: Floats, values: Floats, span: float) -> None:
    """Marks at the edge of a panel from 1 - span to 1 + span for the ratios beyond it."""
    for marker, beyond, y in (("^", values > 1 + span, 1 + 0.92 * span), ("v", values < 1 - span, 1 - 0.92 * span)):
        if beyond.any():
            ratio.plot(at[beyond], np.full(beyond.sum(), y), marker, color="black", markersize=5)
