"""The package as a whole: what an import costs, which way the arrows point, and what is public."""

from __future__ import annotations

import ast
import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import nuinfer

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nuinfer"
FILES = sorted(PACKAGE.rglob("*.py"))

# Each module imports only from those before it.  A name may be a module or a package.
ORDER = [
    "lazy",
    "errors",
    "hashing",
    "events",
    "store",
    "records",
    "histograms",
    "io",
    "tasks",
    "features",
    "metrics",
    "simulators",
    "nets",
    "losses",
    "resample",
    "trees",
    "train",
    "calibration",
    "ensemble",
    "last_layer",
    "ratio",
    "density",
    "invertible",
    "diagnostics",
    "likelihood",
    "intervals",
    "posterior",
    "unfolding",
    "anomaly",
    "plots",
]


def room(file: Path) -> str:
    """The module or package right below ``nuinfer`` that a file belongs to."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def label(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imported(tree: ast.Module, file: Path) -> Iterator[str]:
    """Every module that is imported anywhere in a file, inside functions too, by its full name."""
    package = ["nuinfer", *file.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            # `from . import nets` imports the module nets, `from .nets import MLP` the module nets
            yield from (f"{base}.{alias.name}" for alias in node.names)


def rooms_of(tree: ast.Module, file: Path) -> set[str]:
    """The modules of this package that a file imports from."""
    names = [name.split(".") for name in imported(tree, file)]
    return {name[1] if len(name) > 1 else "" for name in names if name[0] == "nuinfer"}


# -- imports -----------------------------------------------------------------------------------------------------------


def in_a_child(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.strip()


def test_import_is_quick() -> None:
    """CPU time of the import alone, the least of three: other work on the machine only adds to it."""
    code = "import time; start = time.process_time(); import nuinfer; print(time.process_time() - start)"
    assert min(float(in_a_child(code)) for _ in range(3)) < 0.3


def test_import_loads_nothing_heavy() -> None:
    heavy = "{'torch', 'sbi', 'matplotlib', 'sklearn', 'uproot', 'awkward', 'hist', 'pyarrow', 'h5py', 'scipy', 'loky'}"
    code = f"import sys, nuinfer; dir(nuinfer); print(sorted({heavy} & set(sys.modules)))"
    assert in_a_child(code) == "[]"
    use = "nuinfer.Events({'x': [1.0]}).split(0.5, seed=1)"
    code = f"import sys, nuinfer; {use}; print(sorted({heavy} & set(sys.modules)))"
    assert in_a_child(code) == "[]"


def test_training_does_not_load_torchs_compiler() -> None:
    """One CPU second in every process, which is as much as many a fit."""
    code = """
import sys, nuinfer as nu
one, two = nu.Events({'x': [0.0, 1.0, 2.0, 3.0]}), nu.Events({'x': [0.5, 1.5, 2.5, 3.5]})
nu.fit_ratio(one, two, ['x'], seed=1, validation=0.0, training=nu.Training(epochs=1, batch=4), progress=False)
print(sorted({'sympy', 'torch._dynamo'} & set(sys.modules)))
"""
    assert in_a_child(code) == "[]"


@pytest.mark.parametrize("name", ["anomaly.bump.scan_masses", "anomaly.significance.p_of_z", "unfolding.binned"])
def test_modules_of_packages_load_when_they_are_used(name: str) -> None:
    assert in_a_child(f"import nuinfer as nu; nu.{name}; print('yes')") == "yes"


@pytest.mark.parametrize("name", nuinfer._NAMES)
def test_every_name_resolves(name: str) -> None:
    value = getattr(nuinfer, name)
    assert value.__name__ == name
    assert name in dir(nuinfer)
    assert getattr(nuinfer, nuinfer._NAMES[name]).__name__ == f"nuinfer.{nuinfer._NAMES[name]}"


@pytest.mark.parametrize("name", nuinfer._MODULES)
def test_every_module_resolves(name: str) -> None:
    assert getattr(nuinfer, name).__name__ == f"nuinfer.{name}"


def test_other_names_do_not() -> None:
    with pytest.raises(AttributeError, match="module 'nuinfer' has no attribute 'fit_ration'"):
        nuinfer.fit_ration  # type: ignore[attr-defined] # noqa: B018


def test_the_table_is_short_and_complete() -> None:
    assert len(nuinfer._NAMES) <= 20
    assert sorted(nuinfer._MODULES) == sorted({room(file) for file in FILES} - {"__init__"})
    assert sorted(nuinfer._MODULES) == sorted(ORDER)


def test_stub_and_table_agree() -> None:
    stub: dict[str, str] = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ImportFrom):
            stub.update({alias.asname or "": node.module or "" for alias in node.names})
    assert stub == {**nuinfer._NAMES, **dict.fromkeys(nuinfer._MODULES, "")}


# -- arrows ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", [f for f in FILES if room(f) != "__init__"], ids=label)
def test_arrows_point_one_way(file: Path) -> None:
    here = ORDER.index(room(file))
    assert rooms_of(tree_of(file), file) - {"__version__", room(file)} <= set(ORDER[:here])


def test_arrows_are_seen() -> None:
    """The reader of imports finds each of the ways to write one."""
    code = "import nuinfer.nets\nfrom nuinfer import io\nfrom nuinfer.ratio import Ratio\n"
    code += "def f():\n    from . import train\n    from .store import save\n"
    assert rooms_of(ast.parse(code), PACKAGE / "events.py") == {"nets", "io", "ratio", "train", "store"}
    inner = ast.parse("from .. import hashing\nfrom ..nets import MLP\nfrom .result import Unfolded")
    assert rooms_of(inner, PACKAGE / "unfolding" / "x.py") == {"hashing", "nets", "unfolding"}


@pytest.mark.parametrize(
    ("library", "home"),
    [("uproot", "io"), ("matplotlib", "plots"), ("mplhep", "plots"), ("zuko", "density"), ("sbi", "posterior")],
)
def test_one_place_imports_it(library: str, home: str) -> None:
    users = {room(f) for f in FILES for name in imported(tree_of(f), f) if name.split(".")[0] == library}
    assert users == {home}


def test_no_room_for_everything() -> None:
    assert not [label(f) for f in PACKAGE.rglob("*") if f.stem in ("utils", "util", "helpers", "common", "misc")]


# -- what is public ----------------------------------------------------------------------------------------------------


def listing() -> str:
    spec = importlib.util.spec_from_file_location("api", ROOT / "docs" / "api.py")
    assert spec is not None
    assert spec.loader is not None
    api = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(api)
    return str(api.listing())


def test_public_interface_is_the_committed_one() -> None:
    """A change of the interface is a decision: `make api`, and a line in CHANGELOG.md."""
    found = listing()
    assert found.splitlines() == (ROOT / "docs" / "api.txt").read_text(encoding="utf-8").splitlines()
    assert " at 0x" not in found


@pytest.mark.parametrize("name", ORDER)
def test_no_public_name_is_its_modules(name: str) -> None:
    module = getattr(nuinfer, name)
    assert name not in module.__all__
    assert all(hasattr(module, public) for public in module.__all__)
    assert module.__doc__


# -- style -------------------------------------------------------------------------------------------------------------


def functions(file: Path) -> Iterator[tuple[str, int]]:
    """Each function and its number of lines, the docstring apart."""
    for node in ast.walk(tree_of(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            lines = (node.end_lineno or 0) - node.lineno + 1
            first = node.body[0]
            if ast.get_docstring(node) is not None:
                lines -= (first.end_lineno or 0) - first.lineno + 1
            yield f"{label(file)}:{node.name}", lines


def test_functions_are_short() -> None:
    lengths = dict(pair for file in FILES for pair in functions(file))
    assert {name: lines for name, lines in lengths.items() if lines > 50} == {}
    ordered = sorted(lengths.values())
    assert ordered[int(0.9 * len(ordered))] <= 25
    assert ordered[len(ordered) // 2] <= 10


def test_the_library_does_not_print() -> None:
    calls = [
        f"{label(file)}:{node.lineno}"
        for file in FILES
        for node in ast.walk(tree_of(file))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert calls == []


def test_no_absolute_paths() -> None:
    homes = re.compile("(?<![\\w.])/(?:home|root|Users|tmp|mnt|opt)/\\w")
    here = str(ROOT)
    texts = [f for f in ROOT.glob("*.*") if f.suffix in (".md", ".toml", ".txt", ".cff", ".yaml")]
    texts += [ROOT / "Makefile", ROOT / ".ci" / "run"]
    for folder in ("nuinfer", "tests", "docs", "tutorials", "analyses", "benchmarks"):
        found = [f for f in (ROOT / folder).rglob("*") if f.suffix in (".py", ".pyi", ".md", ".txt", ".toml", ".json")]
        texts += [f for f in found if not {"_build", ".venv"} & {part.split("-")[0] for part in f.parts}]
    assert len(texts) > 20
    bad = [f.relative_to(ROOT).as_posix() for f in texts if homes.search(t := f.read_text("utf-8")) or here in t]
    assert bad == []


# -- the version -------------------------------------------------------------------------------------------------------


def test_one_version() -> None:
    version = nuinfer.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "version" in project["project"]["dynamic"]
    assert project["tool"]["hatch"]["version"]["path"] == "nuinfer/__init__.py"
    assert re.search(r"^version: (.*)$", (ROOT / "CITATION.cff").read_text("utf-8"), re.M)[1] == version  # type: ignore[index]
    headings = re.findall(r"^## \[(.*?)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.M)
    assert headings[:2] == ["Unreleased", version]


def test_constraints_pin_every_dependency() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pinned = dict(line.split("==") for line in lines if not line.startswith("#"))
    named = [
        *project["dependencies"],
        *(d for e in ("test", "docs", "data") for d in project["optional-dependencies"][e]),
    ]
    names = {re.split("[<>=!~]", requirement)[0] for requirement in named}
    assert names <= {name.lower() for name in pinned}
    assert pinned["torch"] == "2.13.0"
    assert not [line for line in lines if "+" in line and not line.startswith("#")]  # no local builds
