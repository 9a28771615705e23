"""The house's rules, read off the source: imports point one way, and torch stays where it is needed."""

from __future__ import annotations

import ast
import builtins
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from flexdetr.model.heads import HEADS
from flexdetr.runtime.formats import ENGINES, FORMATS
from sources import FILES, PACKAGE
from sources import TREES as TREES_BY_PATH

ROOT = Path(__file__).parents[2]

# A part may import parts of its own rank or below. Ranks follow the layout in CONTRIBUTING.md.
RANKS = {
    "boxes": 0,
    "classes": 0,
    "config_data": 0,
    "config_part": 0,
    "config_values": 0,
    "files": 0,
    "foreign_code": 0,
    "frozen": 0,
    "part_table": 0,
    "pixel_form": 0,
    "progress": 0,
    "yaml_text": 0,
    "config": 0,
    "recipes": 1,
    "classifiers": 1,
    "presets": 1,
    "runtime": 1,
    "draw": 1,
    "model": 2,
    "loss": 3,
    "data": 4,
    "metrics": 4,
    "weights": 4,
    "engine": 5,
    "export": 5,
    "report": 5,
    "deployed": 5,
    "gathered": 5,
    "scored": 5,
    "sliced": 5,
    "tracking": 5,
    "tasks": 6,
    "classifier": 7,
    "cluster": 7,
    "api": 7,
    "loading": 7,
    "pruning": 7,
    "integrations": 7,
    "serve": 7,
    "ablate": 8,
    "demo": 8,
    "cli": 8,
    "__main__": 9,
}
# Tables of parts by name, of which the configuration is composed.
TABLES = (
    "engine.tracker_table",
    "loss.class_losses",
    "model.fusion",
    "model.heads",
    "model.inserts",
    "model.intra",
    "tasks",
)
# These never import torch, not even inside a function.
NO_TORCH = (
    "config",
    "config_data",
    "config_part",
    "config_values",
    "files",
    "foreign_code",
    "frozen",
    "pixel_form",
    "part_table",
    "progress",
    "yaml_text",
    "classes",
    "classifiers",
    "presets",
    "runtime",
    "draw",
    "data.dataset",
)
# But for engines that are torch, or that take its tensors; nothing imports them but by the table's text.
TORCH_RUNTIMES = {
    place.partition(":")[0].removeprefix("flexdetr.")
    for row in FORMATS.values()
    for engine, place in row.runtimes.items()
    if ENGINES[engine].needs_torch
}
# These may, but only inside a function: a base install without torch has to import them.
LAZY_TORCH = (
    *NO_TORCH,
    "",
    "ablate.plan",
    "ablate.search_plan",
    "api",
    "loading",
    "cli",
    "demo",
    "deployed",
    "data",
    "data.detect",
    "data.images",
    "data.check",
    "export.errors",
    "export.targets",
    "export.board_ops",
    "classifier",
    "tasks",
)
HEAVY = {"torch", "torchvision", "timm", "transformers", "nncf", "faster_coco_eval"}
# Bases that are no part of this package, and that their libraries mean to be inherited from.
BASES = {
    "Module", "Function", "Dataset", "IterableDataset", "Sampler", "Transform",  # torch, torchvision
    "Tracer", "TorchDispatchMode", "TorchFunctionMode",  # torch
    "BaseModel", "Mapping", "Protocol", "NamedTuple", "TypedDict", "Enum", "StrEnum", "Generic",
    "Unpickler", "Handler", "Formatter", "HTMLParser", "TyperGroup", "ProgressColumn",
    "Part",
    "SahiModel",  # what SAHI asks of a model
}  # fmt: skip
ERRORS = {
    name
    for name, kind in vars(builtins).items()
    if isinstance(kind, type) and issubclass(kind, BaseException)
}
VAGUE_NAMES = {"util", "utils", "misc", "common", "helper", "helpers", "core"}
MAX_LINES = 520  # past 400 is a sign to look at a file, past this one to divide it


def module_name(path: Path) -> str:
    """``src/flexdetr/model/fuse.py`` as ``model.fuse``; the package itself is the empty name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(path): path for path in FILES}
TREES = {name: TREES_BY_PATH[path] for name, path in MODULES.items()}


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def import_nodes(
    node: ast.AST, *, inside_functions: bool, types: bool
) -> Iterator[ast.Import | ast.ImportFrom]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and not inside_functions:
            continue
        elif is_type_checking(child) and not types:
            for other in child.orelse:
                yield from import_nodes(other, inside_functions=inside_functions, types=types)
        else:
            yield from import_nodes(child, inside_functions=inside_functions, types=types)


@cache
def imports(name: str, *, inside_functions: bool = True, types: bool = True) -> set[str]:
    """Full dotted names that a module imports; what comes from this package is named down to its module."""
    found = set()
    package = (
        f"flexdetr.{name}" if MODULES[name].name == "__init__.py" else f"flexdetr.{name}".rpartition(".")[0]
    )
    for node in import_nodes(TREES[name], inside_functions=inside_functions, types=types):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
            continue
        base = node.module or ""
        if node.level:
            parents = package.rstrip(".").split(".")
            base = ".".join(parents[: len(parents) - node.level + 1] + ([base] if base else []))
        for alias in node.names:
            below = f"{base}.{alias.name}"
            found.add(below if below.removeprefix("flexdetr.") in MODULES else base)
    return found


@cache
def own_imports(name: str, *, inside_functions: bool = True, types: bool = True) -> set[str]:
    found = imports(name, inside_functions=inside_functions, types=types)
    return {
        target.removeprefix("flexdetr").lstrip(".") for target in found if target.split(".")[0] == "flexdetr"
    }


@cache
def loaded_with(name: str) -> set[str]:
    """The package's modules that importing ``name`` executes, itself and its parent packages included."""
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current in seen or current not in MODULES:
            continue
        seen.add(current)
        waiting += own_imports(current, inside_functions=False, types=False)
        waiting += [current.rpartition(".")[0]]
    return seen


def part(name: str) -> str:
    return name.split(".")[0]


def is_table(name: str) -> bool:
    """Names of parts and their options, of which the configuration is composed."""
    return name in TABLES or (name.startswith("model.heads.") and name.endswith(".options"))


def rank(name: str) -> int:
    if is_table(name):
        return 0
    if name in TORCH_RUNTIMES:
        return RANKS["export"]
    top = part(name)
    return RANKS["cli"] if top.startswith("cli") else RANKS[top]


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_imports_point_one_way(name: str) -> None:
    # A table may name the types of what its rows stand for.
    imported = own_imports(name, types=name not in TABLES)
    upward = {target for target in imported - {""} if rank(target) > rank(name)}
    assert not upward, f"{name} imports {sorted(upward)}, which stand above it"


def test_every_part_has_a_rank() -> None:
    unknown = {part(name) for name in MODULES if name} - set(RANKS)
    assert not {name for name in unknown if not name.startswith("cli")}


def is_inside_a_head(name: str) -> bool:
    return name.startswith("model.heads.") and name.count(".") >= 3


@pytest.mark.parametrize("name", [name for name in MODULES if part(name) not in ("tasks", "")])
def test_tasks_are_asked_through_their_table(name: str) -> None:
    rows = {target for target in own_imports(name) if target.startswith("tasks.")}
    assert not rows, f"{name} imports {sorted(rows)}: ask flexdetr.tasks.task(name) instead"


@cache
def inner_modules() -> set[str]:
    """Names that only heads give to their layers, of several words: single ones are too common to look for."""
    given: dict[bool, set[str]] = {True: set(), False: set()}
    for name in (module for module in MODULES if part(module) == "model"):
        for node in ast.walk(TREES[name]):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                given[is_inside_a_head(name)].add(node.attr)
    return {name for name in given[True] - given[False] if "_" in name.strip("_")}


def may_know(name: str) -> bool:
    """A head itself, the loss that its row names, and other projects' names for its layers."""
    objectives = {row.objective.partition(":")[0].removeprefix("flexdetr.") for row in HEADS.values()}
    return is_inside_a_head(name) or name in objectives or part(name) == "weights"


@pytest.mark.parametrize("name", [name for name in MODULES if not may_know(name)])
def test_nothing_outside_of_heads_knows_their_insides(name: str) -> None:
    imported = {target for target in own_imports(name) if is_inside_a_head(target) and not is_table(target)}
    assert not imported, f"{name} imports {sorted(imported)}: ask the head through the protocol instead"
    inner = inner_modules() - {"eval_layers"}  # of the protocol
    words = {
        word
        for node in ast.walk(TREES[name])
        for text in (
            [node.attr]
            if isinstance(node, ast.Attribute)
            else [node.value]
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
            else []
        )
        for word in re.findall(r"\w+", text)
    }
    assert not words & inner, f"{name} names layers of a head: {sorted(words & inner)}"


def test_heads_have_names_to_look_for() -> None:
    assert {"memory_proj", "encoder_score", "cross_attention"} <= inner_modules()


def test_modules_import_each_other_in_no_circle() -> None:
    circles = [
        name
        for name in MODULES
        for target in own_imports(name, inside_functions=False, types=False) - {name, name.rpartition(".")[0]}
        if name and name in reachable(target)
    ]
    assert not circles


@cache
def reachable(name: str) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in seen and current in MODULES:
            seen.add(current)
            waiting += own_imports(current, inside_functions=False, types=False)
    return seen


def torch_free(name: str, roots: tuple[str, ...]) -> bool:
    below = any(name == root or (root and root != "data" and name.startswith(f"{root}.")) for root in roots)
    return below and name not in TORCH_RUNTIMES


@pytest.mark.parametrize("name", [name for name in MODULES if torch_free(name, NO_TORCH)])
def test_no_torch_at_all(name: str) -> None:
    heavy = {target for target in imports(name) if target.split(".")[0] in HEAVY}
    assert not heavy


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in MODULES
        if torch_free(name, LAZY_TORCH) or part(name).startswith("cli") or is_table(name)
    ],
)
def test_no_torch_when_imported(name: str) -> None:
    heavy = {
        (module, target)
        for module in loaded_with(name)
        for target in imports(module, inside_functions=False, types=False)
        if target.split(".")[0] in HEAVY
    }
    assert not heavy


def test_what_inference_does_without_is_imported_where_it_is_used() -> None:
    """torchvision and timm bring torch's compiler and sympy: with them a command takes twice as long to begin."""
    at_once = {
        name: target
        for name in MODULES
        for target in imports(name, inside_functions=False, types=False)
        if target.split(".")[0] in {"torchvision", "timm", "scipy"} or target.startswith("torch._dynamo")
    }
    assert not at_once


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_files_hold_one_idea(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_LINES, f"{path.name} has {lines} lines; split it by idea"
    words = {word for part in path.relative_to(PACKAGE).with_suffix("").parts for word in part.split("_")}
    assert not words & VAGUE_NAMES, "name the file after what it does"


def nodes(kind: type[ast.AST]) -> Iterator[tuple[str, ast.AST]]:
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kind):
                yield name, node


def listed(node: ast.AST) -> set[str]:
    """The texts that stand side by side in a literal."""
    if isinstance(node, ast.Dict):
        return {
            key.value for key in node.keys if isinstance(key, ast.Constant) and isinstance(key.value, str)
        }
    if isinstance(node, ast.Tuple | ast.List | ast.Set):
        return {
            one.value for one in node.elts if isinstance(one, ast.Constant) and isinstance(one.value, str)
        }
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return set(node.value.split("|"))
    return set()


@pytest.mark.parametrize("name", [name for name in MODULES if name != "runtime.formats"])
def test_formats_are_listed_in_their_table_only(name: str) -> None:
    suffixes = {suffix for row in FORMATS.values() for suffix in row.suffixes}
    words = (set(FORMATS), set(ENGINES), suffixes)
    # Two of them are a choice between two; "torch" and "openvino" also run checkpoints.
    lists = [
        node.lineno for node in ast.walk(TREES[name]) for known in words if len(listed(node) & known) > 2
    ]
    assert not lists, f"{name}, lines {lists}: take the names from flexdetr.runtime.formats"


def test_runtimes_live_in_one_folder() -> None:
    places = {place.partition(":")[0] for row in FORMATS.values() for place in row.runtimes.values()}
    assert {place.rpartition(".")[0] for place in places} == {"flexdetr.runtime"}


def test_composition_not_inheritance() -> None:
    errors = {
        node.name
        for _, node in nodes(ast.ClassDef)
        if isinstance(node, ast.ClassDef) and node.name.endswith(("Error", "Interrupted", "Warning"))
    }
    wrong = [
        f"{name}.{node.name}({ast.unparse(base)})"
        for name, node in nodes(ast.ClassDef)
        if isinstance(node, ast.ClassDef)
        for base in node.bases
        if last_name(base) not in BASES | ERRORS | errors
    ]
    assert not wrong, "compose instead of inheriting from a class of ours"


def last_name(node: ast.expr) -> str:
    while isinstance(node, ast.Subscript):
        node = node.value
    return ast.unparse(node).rpartition(".")[2]


def test_no_evaluated_strings_prints_or_exits() -> None:
    forbidden = {
        "eval",
        "exec",
        "compile",
        "__import__",
        "print",
        "sys.exit",
        "exit",
        "quit",
        "pickle.load",
        "pickle.loads",
    }
    wrong = [
        f"{name}:{node.lineno} {ast.unparse(node.func)}"
        for name, node in nodes(ast.Call)
        if isinstance(node, ast.Call)
        if ast.unparse(node.func) in forbidden
        if name != "__main__"  # it is the one that ends the process
    ]
    assert not wrong


def test_torch_load_never_unpickles_code() -> None:
    wrong = [
        f"{name}:{node.lineno}"
        for name, node in nodes(ast.Call)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
        if not any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
    ]
    assert not wrong, "pass weights_only=True"


def test_one_reader_of_yaml() -> None:
    wrong = [
        f"{name}:{node.lineno} {ast.unparse(node.func)}"
        for name, node in nodes(ast.Call)
        if isinstance(node, ast.Call) and name != "yaml_text"
        if ast.unparse(node.func) in {"yaml.load", "yaml.safe_load", "yaml.full_load", "yaml.unsafe_load"}
    ]
    assert not wrong, "read YAML with flexdetr.yaml_text, which refuses texts that stand for huge values"
