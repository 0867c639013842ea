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
import re
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
        head = "".join(f"<th>{_typeset(cell)}</th>" for cell in self.header)
        body = "".join("<tr>" + "".join(f"<td>{_typeset(c)}</td>" for c in row) + "</tr>\n" for row in self.rows)
        return (
            f'<div class="table"><p>{_typeset(self.caption)}</p>\n'
            f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div>\n"
        )


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
:root { --ink: #1d1f21; --soft: #5c6166; --line: #d8dbde }
* { box-sizing: border-box }
body { font: 17px/1.55 Georgia, "Times New Roman", serif; max-width: 62em; margin: 3em auto; padding: 0 1.5em;
  color: var(--ink); background: #fff }
h1 { font-size: 1.75em; line-height: 1.25; max-width: 30em; margin: 0 0 .8em }
p { max-width: 46em; margin: 0 0 .9em }
sup { line-height: 0 }
.table { margin: 2em 0 2.5em; overflow-x: auto }
.table p, figcaption, footer { color: var(--soft); font-size: .88em }
table { border-collapse: collapse; border-top: 2px solid var(--ink); border-bottom: 2px solid var(--ink);
  font-variant-numeric: lining-nums tabular-nums }
thead { border-bottom: 1px solid var(--ink) }
th, td { padding: .3em 1.1em; text-align: right; font-weight: normal }
th:first-child, td:first-child { text-align: left; padding-left: .4em }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(24em, 1fr)); gap: 2.5em 2em }
figure { margin: 0 }
figure img { display: block; width: 100%; max-width: 30em }
figcaption { margin-top: .6em; max-width: 32em }
footer { border-top: 1px solid var(--line); margin-top: 3em; padding-top: .8em }
a { color: #1a5fb4 }
@media (max-width: 40em) { .figures { grid-template-columns: 1fr } }
@media print { body { font-size: 11pt; margin: 0 } figure { break-inside: avoid } }
"""

_SIGNS = (  # plain text of a terminal, as a page can set it
    (re.compile(r"(?<![\d.])1e\+?0*(-?)0*(\d+)\b"), r"10<sup>\1\2</sup>"),
    (re.compile(r"(?<=\d)e\+?0*(-?)0*(\d+)\b"), r" × 10<sup>\1\2</sup>"),
    (re.compile(r"\^(-?\d+)"), r"<sup>\1</sup>"),
    (re.compile(r"\bchi2\b"), "χ<sup>2</sup>"),
    (re.compile(r"(?<=\d) x (?=\w)"), " × "),
    (re.compile(r"\+-"), "±"),
    (re.compile(r"(?<![\w.-])-(?=\d)|(?<=<sup>)-(?=\d)"), "−"),
)


def _typeset(text: str) -> str:
    """HTML of a plain text: chi2, +-, 10^-38 and the like as they are printed in a paper."""
    text = html.escape(text)
    for plain, printed in _SIGNS:
        text = plain.sub(printed, text)
    return text


def _page(title: str, text: Sequence[str], tables: Sequence[Table], figures: Sequence[tuple[Picture, bytes]]) -> str:
    paragraphs = "".join(f"<p>{_typeset(part)}</p>\n" for part in text)
    shown = "".join(_figure(picture, png) for picture, png in figures)
    made = html.escape(", ".join(f"{name} {version}" for name, version in versions().items()))
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{_typeset(title)}</h1>\n{paragraphs}{''.join(table.html() for table in tables)}"
        f'<div class="figures">\n{shown}</div>\n'
        f'<footer>Numbers: <a href="results.json">results.json</a>. Made with {made}.</footer>\n</body>\n</html>\n'
    )


def _figure(picture: Picture, png: bytes) -> str:
    image = base64.b64encode(png).decode("ascii")
    return (
        f'<figure><img alt="{html.escape(picture.caption)}" src="data:image/png;base64,{image}">'
        f'<figcaption>{_typeset(picture.caption)} (<a href="{html.escape(picture.name)}.pdf">PDF</a>)</figcaption>'
        f"</figure>\n"
    )
