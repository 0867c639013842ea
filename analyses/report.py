"""What every analysis leaves behind: ``results.json`` for programs and one HTML page, figures within, for people.

    out/NAME/results.json   {"format": 1, "seed": ..., "versions": {...}, "numbers": {name: {"value", ...}}}
    out/NAME/index.html     text, table and figures, with nothing to load from elsewhere
    out/NAME/*.png, *.pdf   the figures

Each file is written whole or not at all, the numbers last.
"""

from __future__ import annotations

import base64
import html
import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import nuinfer as nu

FORMAT = 1
Number = dict[str, Any]  # "value", "uncertainty", "truth", "published"


class Table(NamedTuple):
    """A table of texts: a caption, the column names and the rows; all columns but the first are aligned right."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.header, *self.rows]
        widths = [max(len(cell) for cell in column) for column in zip(*lines, strict=True)]
        text = ["  ".join(_aligned(cell, n, at) for at, (cell, n) in enumerate(zip(line, widths, strict=True)))
                for line in lines]  # fmt: skip
        return "\n".join([self.caption, text[0], "-" * len(text[0]), *text[1:]])

    def html(self) -> str:
        head = "".join(f"<th>{html.escape(cell)}</th>" for cell in self.header)
        body = "".join("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in row) + "</tr>\n" for row in self.rows)
        return f"<table><caption>{html.escape(self.caption)}</caption>\n<tr>{head}</tr>\n{body}</table>\n"


class Picture(NamedTuple):
    """A matplotlib axes, whose figure is saved as ``name.png`` and ``name.pdf``, and what one sees in it."""

    name: str
    axes: Any
    caption: str


def number(
    value: float, uncertainty: float | None = None, *, truth: float | None = None, published: float | None = None
) -> Number:
    """One entry of ``results.json``; numbers that are not finite are refused (``ValueError``)."""
    entry = {"value": value, "uncertainty": uncertainty, "truth": truth, "published": published}
    wrong = [name for name, part in entry.items() if part is not None and not math.isfinite(part)]
    if wrong or value is None:
        raise ValueError(f"a result: expected finite numbers and a value, found {entry}")
    return {name: None if part is None else float(part) for name, part in entry.items()}


def write(
    folder: Path,
    *,
    title: str,
    text: Sequence[str],
    tables: Sequence[Table],
    pictures: Sequence[Picture],
    seed: int,
    numbers: Mapping[str, Number],
) -> Path:
    """Write figures, page and numbers into ``folder`` and give the path of the page."""
    saved = [(picture, nu.plots.save(picture.axes.figure, folder / picture.name)[0]) for picture in pictures]
    page = _page(title, text, tables, [(picture, png.read_bytes()) for picture, png in saved])
    results = {"format": FORMAT, "seed": seed, "versions": versions(), "numbers": dict(numbers)}
    _write_text(folder / "index.html", page)
    _write_text(folder / "results.json", json.dumps(results, indent=1, allow_nan=False) + "\n")
    return folder / "index.html"


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    packages = ("numpy", "scipy", "torch", "uproot", "awkward")
    return {
        "python": platform.python_version(),
        "nuinfer": nu.__version__,
        **{p: metadata.version(p) for p in packages},
    }


def _aligned(cell: str, width: int, column: int) -> str:
    return cell.rjust(width) if column else cell.ljust(width)


def _write_text(path: Path, content: str) -> None:
    nu.store.write_atomically(path, lambda temporary: temporary.write_text(content, encoding="utf-8"))


_STYLE = """
body { font: 16px/1.5 sans-serif; max-width: 60em; margin: 2em auto; padding: 0 1em; color: #222; background: #fff }
table { border-collapse: collapse; margin: 1.5em 0; font-variant-numeric: tabular-nums }
caption { text-align: left; padding-bottom: .5em; color: #555 }
th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left }
figure { display: inline-block; width: 27em; max-width: 100%; margin: 0 1em 1.5em 0; vertical-align: top }
figure img { width: 100% }
figcaption { color: #555; font-size: .9em }
"""


def _page(title: str, text: Sequence[str], tables: Sequence[Table], figures: Sequence[tuple[Picture, bytes]]) -> str:
    paragraphs = "".join(f"<p>{html.escape(part)}</p>\n" for part in text)
    shown = "".join(_figure(picture, png) for picture, png in figures)
    made = html.escape(", ".join(f"{name} {version}" for name, version in versions().items()))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{paragraphs}{''.join(table.html() for table in tables)}{shown}"
        f"<p><small>Made with {made}.</small></p>\n</body>\n</html>\n"
    )


def _figure(picture: Picture, png: bytes) -> str:
    image = base64.b64encode(png).decode("ascii")
    caption = html.escape(picture.caption)
    return (
        f'<figure><img alt="{caption}" src="data:image/png;base64,{image}">'
        f"<figcaption>{caption}</figcaption></figure>\n"
    )
