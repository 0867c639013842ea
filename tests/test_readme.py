"""The README's example is the one that made its figure, it runs, and its links lead somewhere."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def example() -> str:
    """The first block of Python in the README."""
    found = re.search(r"^```python\n(.*?)^```$", README, re.M | re.S)
    assert found is not None
    return found[1]


def figure_script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("readme_figure", ROOT / "docs" / "readme_figure.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figure_is_made_by_the_example() -> None:
    script = (ROOT / "docs" / "readme_figure.py").read_text(encoding="utf-8")
    found = re.search(r"# README begins\n(.*?)^ *# README ends$", script, re.M | re.S)
    assert found is not None
    assert textwrap.dedent(found[1]) == example()


def test_the_example_runs(tmp_path: Path) -> None:
    """On the script's files, in a process of its own; it leaves the figure that it says it saves."""
    figure_script().make_files(tmp_path, number=3_000)
    code = example().replace("bootstrap=20", "bootstrap=2")  # replicas and events are what takes long
    assert code != example()
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "unfolded.png").stat().st_size > 10_000


@pytest.mark.parametrize("page", ["README.md", "docs/index.md"])
def test_links_lead_somewhere(page: str) -> None:
    path = ROOT / page
    text = path.read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text) + re.findall(r"(?:src|href)=\"([^\"#]+)", text)
    assert links
    local = [link for link in links if "://" not in link]
    # docs/tutorials is made from the tutorials when the pages are built
    made = {link: (path.parent / link).resolve() for link in local if not link.startswith("tutorials/")}
    assert {link for link, target in made.items() if not target.exists()} == set()


def test_the_table_names_what_there_is() -> None:
    """Every `nu.name` of the README exists."""
    import nuinfer as nu

    names = set(re.findall(r"`nu\.([A-Za-z_][\w.]*)", README)) | set(re.findall(r"\bnu\.([A-Za-z_][\w.]*)\(", README))
    assert len(names) > 10
    for name in names:
        thing: object = nu
        for part in name.rstrip(".").split("."):
            thing = getattr(thing, part)
