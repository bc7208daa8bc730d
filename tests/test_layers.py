"""Imports point one way."""

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "audit"
ORDER = ["event", "fields", "redact", "detection", "rules", "sentence", "alert", "database",
         "outbox", "template", "sinks.base", "sinks.slack", "sinks.console", "outage", "dispatcher",
         "config", "webhook", "commands", ""]
ONLY = {"flask": {"webhook", ""}, "sqlite3": {"database"}, "psycopg": {"database"},
        "requests": {"sinks.slack"}, "click": {"commands"}, "jinja2": {"template"}}


def modules() -> dict[str, set[str]]:
    """Module → what it imports; the package itself is ''."""
    found = {}
    for file in ROOT.rglob("*.py"):
        name = ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix("__init__")
        imported: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module == "audit":
                imported |= {f"audit.{alias.name}" for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module or "")
        found[name.removesuffix(".")] = imported
    found.pop("sinks")
    return found


def test_no_import_is_turned() -> None:
    found = modules()
    assert sorted(found) == sorted(ORDER)
    for name, imported in found.items():
        for other in imported:
            if other.startswith("audit."):
                inner = other.removeprefix("audit.")
                assert inner in ORDER, f"{name} imports {other}"
                assert ORDER.index(inner) < ORDER.index(name), f"{name} imports {other}"


def test_each_library_has_its_room() -> None:
    for name, imported in modules().items():
        for library, rooms in ONLY.items():
            if any(other.partition(".")[0] == library for other in imported):
                assert name in rooms, f"{name} imports {library}"
