"""Imports go one way; nothing below `main` reads the environment; what serves needs no trainer."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("recsys", "serving", "pipelines")
FOUNDATION = {"recsys.errors", "recsys.settings", "recsys.artefacts", "recsys.progress"}
STAGES = {"recsys.data", "recsys.candidates", "recsys.ranking", "recsys.index"}
SERVED = (
    FOUNDATION | STAGES | {"recsys.exploration", "recsys.state", "recsys.requests", "recsys.bundle"}
)
ALLOWED = {
    "recsys.core": FOUNDATION,
    "recsys.data": FOUNDATION | {"recsys.core", "recsys.state"},
    "recsys.state": FOUNDATION,
    "recsys.state_files": FOUNDATION | {"recsys.state"},
    "recsys.index": FOUNDATION | {"recsys.core", "recsys.data"},
    "recsys.candidates": FOUNDATION | {"recsys.core", "recsys.data"},
    "recsys.ranking": FOUNDATION | {"recsys.core", "recsys.data"},
    "recsys.exploration": FOUNDATION | {"recsys.core", "recsys.data", "recsys.ranking"},
    "recsys.evaluation": FOUNDATION,
    "recsys.off_policy": FOUNDATION | {"recsys.evaluation"},
    "recsys.experiment": FOUNDATION | {"recsys.evaluation"},
    "recsys.requests": FOUNDATION | {"recsys.state"},
    "recsys.signing": FOUNDATION,
    "recsys.verification": FOUNDATION | {"recsys.signing"},
    "recsys.bundle": FOUNDATION | STAGES | {"recsys.exploration", "recsys.verification"},
    "recsys.eligibility": SERVED,
    "recsys.live_counters": SERVED,
    "recsys.recent_watches": FOUNDATION,
    "recsys.user_views": SERVED,
    "recsys.guard": set(),
    "recsys.stages": {"recsys.requests", "recsys.user_views"},
    "recsys.retrieval": SERVED | {"recsys.eligibility"},
    "recsys.simulation": FOUNDATION
    | {"recsys.core", "recsys.data", "recsys.requests", "recsys.state"},
    "recsys.sources": SERVED | {"recsys.eligibility", "recsys.recent_watches", "recsys.user_views"},
    "recsys.candidate_stage": SERVED
    | {
        "recsys.answers",
        "recsys.eligibility",
        "recsys.recent_watches",
        "recsys.retrieval",
        "recsys.sources",
        "recsys.stages",
        "recsys.user_views",
    },
    "recsys.boosts": SERVED | {"recsys.eligibility"},
    "recsys.arrangement": SERVED | {"recsys.boosts", "recsys.eligibility"},
    "recsys.scoring": SERVED
    | {"recsys.boosts", "recsys.live_counters", "recsys.retrieval", "recsys.user_views"},
    "recsys.ordering": SERVED
    | {
        "recsys.arrangement",
        "recsys.boosts",
        "recsys.core",
        "recsys.scoring",
        "recsys.user_views",
    },
    "recsys.order_stage": SERVED
    | {
        "recsys.arrangement",
        "recsys.ordering",
        "recsys.retrieval",
        "recsys.scoring",
        "recsys.stages",
    },
    "recsys.answers": SERVED
    | {"recsys.ordering", "recsys.retrieval", "recsys.scoring", "recsys.stages"},
    "recsys.recommender": SERVED
    | {
        "recsys.answers",
        "recsys.arrangement",
        "recsys.candidate_stage",
        "recsys.eligibility",
        "recsys.guard",
        "recsys.live_counters",
        "recsys.order_stage",
        "recsys.ordering",
        "recsys.retrieval",
        "recsys.scoring",
        "recsys.stages",
        "recsys.user_views",
    },
}
TRAINERS = (
    "tensorflow",
    "keras",
    "lightgbm",
    "implicit",
    "matplotlib",
    "onnx",
    "optuna",
    "tf2onnx",
    "jax",
)


def modules():
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            if "v1" not in path.parts:
                yield ".".join(path.relative_to(ROOT).with_suffix("").parts), path


def imported_modules(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def unit(module):
    parts = module.removesuffix(".__init__").split(".")
    return ".".join(parts[:2])


def arrows():
    names = {name.removesuffix(".__init__") for name, _ in modules()}
    for name, path in modules():
        source = name.removesuffix(".__init__")
        for target in imported_modules(path):
            if target in names and target != source:
                yield source, target


def test_modules_import_without_cycles():
    graph = {}
    for source, target in arrows():
        graph.setdefault(source, set()).add(target)
    list(TopologicalSorter(graph).static_order())


def test_library_units_import_only_what_lies_below():
    wrong = [
        f"{source} -> {target}"
        for source, target in arrows()
        if source.startswith("recsys.")
        and unit(source) != unit(target)
        and unit(target) not in ALLOWED.get(unit(source), FOUNDATION)
    ]
    assert wrong == []


def test_library_never_imports_what_uses_it():
    wrong = [
        f"{source} -> {target}"
        for source, target in arrows()
        if (source.startswith("recsys") and not target.startswith("recsys"))
        or (source.startswith("serving") and target.startswith("pipelines"))
    ]
    assert wrong == []


def test_library_reads_no_environment_argument_or_wall_clock():
    forbidden = ("os.environ", "sys.argv", "time.time(", "datetime.now", "import grpc")
    wrong = [
        f"{name}: {word}"
        for name, path in modules()
        if name.startswith("recsys")
        for word in forbidden
        if word in path.read_text()
    ]
    assert wrong == []


def runs_text(node):
    """Return whether a node of a syntax tree calls what runs text, or lets NumPy unpickle."""
    if isinstance(node, ast.keyword):
        return node.arg == "allow_pickle" and ast.unparse(node.value) != "False"
    return isinstance(node, ast.Call) and ast.unparse(node.func) in {"eval", "exec", "compile"}


def test_nothing_that_is_served_can_unpickle_or_run_text():
    loaders = {"pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml"}
    assert runs_text(ast.parse("eval(x)", mode="eval").body)
    wrong = [
        name
        for name, path in modules()
        if name.startswith(("recsys", "serving"))
        if loaders & set(imported_modules(path))
        or any(map(runs_text, ast.walk(ast.parse(path.read_text()))))
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["recsys.recommender", "recsys.bundle", "serving.server"])
def test_serving_side_imports_without_trainers(module):
    code = f"import sys, {module}; print([m for m in {TRAINERS} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr
