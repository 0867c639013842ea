"""Sphinx settings: MyST pages, docstrings by autodoc, tutorials shown as notebooks that the tests have run."""

import os
import shutil
import sys
from pathlib import Path

import jupytext

import nuinfer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from api import signature  # noqa: E402

# Tutorials live beside the package as py:percent scripts; the pages are made of them.
shutil.rmtree(HERE / "tutorials", ignore_errors=True)
(HERE / "tutorials").mkdir()
for script in sorted(HERE.parent.glob("tutorials/*.py")):
    notebook = jupytext.read(script)
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "ipython3"}
    jupytext.write(notebook, HERE / "tutorials" / f"{script.stem}.ipynb")

project = "nuinfer"
author = "The nuinfer developers"
copyright = f"2026, {author}"
version = release = nuinfer.__version__

extensions = ["sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "myst_nb"]
exclude_patterns = ["_build"]
default_role = "py:obj"

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# The tests run the tutorials; NUINFER_DOCS_EXECUTE=cache puts their output into the pages as well.
nb_execution_mode = os.environ.get("NUINFER_DOCS_EXECUTE", "off")
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "remove"
os.environ.pop("MPLBACKEND", None)  # a notebook has its own, which puts figures into the page

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True}
autodoc_type_aliases = {name: name for name in ("ArrayLike", "Column", "Flat", "Floats", "Ints", "Keys")}
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 100
napoleon_google_docstring = False
napoleon_use_rtype = False

html_theme = "furo"
html_title = f"nuinfer {release}"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["custom.css"]


def as_written(app, what, name, thing, options, found, returns):
    """Signatures with the annotations of the source, not with what its aliases stand for."""
    text = signature(thing) if what in ("class", "function", "method") else ""
    if not text:
        return None
    arguments, _, result = text.rpartition(" -> ") if " -> " in text else (text, "", "")
    arguments = arguments.replace("(self, ", "(", 1).replace("(self)", "()", 1)
    return arguments, "" if what == "class" else result


def skipped(app, what, name, thing, skip, options):
    """Fields of named tuples that have no text of their own."""
    return True if (thing.__doc__ or "").startswith("Alias for field") else None


def setup(app):
    app.connect("autodoc-process-signature", as_written)
    app.connect("autodoc-skip-member", skipped)
