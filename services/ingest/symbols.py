"""Definitions in code by tree-sitter: functions, classes, methods and types with their exact place."""

import re
from bisect import bisect_left
from itertools import accumulate

from tree_sitter import Node

from services.ingest.languages import parser_of
from services.ingest.types import Symbol

KINDS = {  # node type -> kind; a function inside a class becomes a method
    "function_definition": "function", "class_definition": "class",  # Python (C's function_definition too)
    "function_declaration": "function", "generator_function_declaration": "function", "class_declaration": "class",
    "abstract_class_declaration": "class", "method_definition": "method", "abstract_method_signature": "method",
    "function_signature": "function", "interface_declaration": "type", "type_alias_declaration": "type",
    "enum_declaration": "type",  # JavaScript, TypeScript
    "method_declaration": "method", "type_spec": "type", "type_alias": "type",  # Go
    "function_item": "function", "function_signature_item": "function", "struct_item": "type", "enum_item": "type",
    "union_item": "type", "trait_item": "type", "type_item": "type", "macro_definition": "function",  # Rust
    "struct_specifier": "type", "enum_specifier": "type", "union_specifier": "type", "type_definition": "type",
    "preproc_function_def": "function",  # C
}  # fmt: skip
SCOPES = {
    "impl_item": "type",
    "mod_item": "name",
    "internal_module": "name",
    "module": "name",
}  # name their inside only
BOUND = {"variable_declarator": "name", "assignment_expression": "left", "pair": "key", "field_definition": "property",
         "public_field_definition": "name"}  # fmt: skip  # JavaScript: a name given to a function value
VALUES = {"arrow_function": "function", "function_expression": "function", "generator_function": "function",
          "class": "class"}  # fmt: skip
CLASSES = {"class_definition", "class_declaration", "abstract_class_declaration", "class", "impl_item", "trait_item"}
WRAPPERS = {"decorated_definition", "export_statement", "lexical_declaration", "variable_declaration",
            "expression_statement", "ambient_declaration", "type_declaration"}  # fmt: skip
NEEDS_BODY = {"struct_specifier", "enum_specifier", "union_specifier"}
SIGNATURE = 300


class Chars:
    """Char offsets for tree-sitter's byte offsets."""

    def __init__(self, text: str):
        self.starts = None if text.isascii() else list(accumulate((len(c.encode()) for c in text), initial=0))

    def at(self, byte: int) -> int:
        return byte if self.starts is None else bisect_left(self.starts, byte)


def symbols_of(text: str, language: str | None, path: str, offset: int = 0) -> list[Symbol]:
    """Symbols of one file, in order; `offset` is the file's first char in the repository's text."""
    parser = parser_of(language) if language else None
    if parser is None:
        return []
    chars, out = Chars(text), []
    stack: list[tuple[Node, tuple[str, ...], bool]] = [(parser.parse(text.encode()).root_node, (), False)]
    while stack:
        node, scope, in_class = stack.pop()
        kind, name, body = defined(node)
        if kind and name:
            out.append(symbol(node, body, kind, name, scope, in_class, text, chars, path, offset))
        inner = (*scope, name) if name else scope
        inside = body.type in CLASSES if name else in_class
        stack += [(child, inner, inside) for child in reversed(node.named_children)]
    return sorted(out, key=lambda s: (s.char[0], -s.char[1]))


def defined(node: Node) -> tuple[str | None, str | None, Node]:
    """(kind, name, the node that holds the body); a scope has a name but no kind."""
    if field := SCOPES.get(node.type):
        return None, words(node.child_by_field_name(field)), node
    if field := BOUND.get(node.type):
        value = node.child_by_field_name("right" if field == "left" else "value")
        kind = VALUES.get(value.type) if value else None
        return (kind, bound_name(node.child_by_field_name(field)), value) if kind and value else (None, None, node)
    kind = KINDS.get(node.type)
    if not kind or (node.type in NEEDS_BODY and not node.child_by_field_name("body")):
        return None, None, node
    return kind, name_of(node), node


def name_of(node: Node) -> str | None:
    if name := node.child_by_field_name("name"):
        same = node.type in NEEDS_BODY and node.parent is not None and node.parent.type == "type_definition"
        return None if same else words(name)
    declarator = node.child_by_field_name("declarator")  # C: dig through pointers and parameters
    while declarator is not None and (inner := inner_declarator(declarator)):
        declarator = inner
    return words(declarator) if declarator is not None and "identifier" in declarator.type else None


def inner_declarator(node: Node) -> Node | None:
    inside = node.named_children[:1] if node.type == "parenthesized_declarator" else []
    return inside[0] if inside else node.child_by_field_name("declarator")


def words(node: Node | None) -> str | None:
    text = node.text.decode("utf-8", "replace") if node is not None and node.text else ""
    return re.sub(r"<.*|\s+", "", text, flags=re.S)[:200] or None


def bound_name(node: Node | None) -> str | None:
    """`exports.name`, `A.prototype.name`, `'name'`: the last part."""
    text = words(node)
    return re.split(r"\.", text.strip("'\"`[]"))[-1] if text else None


def symbol(
    node: Node, body: Node, kind: str, name: str, scope: tuple[str, ...], in_class: bool, text: str, chars: Chars,
    path: str, offset: int,
) -> Symbol:  # fmt: skip
    outer = wrapper(node)
    start, end = chars.at(outer.start_byte), chars.at(outer.end_byte)
    end -= len(text[start:end]) - len(text[start:end].rstrip())
    first = outer.start_point[0] + 1
    parent = receiver(node) or ".".join(scope) or None
    kind = "method" if kind == "function" and in_class else kind
    head = text[chars.at(head_start(node, outer)) : chars.at(head_end(node, body))]
    line = (first, first + text.count("\n", start, end))
    return Symbol(name, kind, path, line, (offset + start, offset + end), signature(head), parent)


def wrapper(node: Node) -> Node:
    """Decorators, `export` and `const` belong to what they introduce, when it is the only thing they do."""
    while node.parent is not None and node.parent.type in WRAPPERS:
        parent = node.parent
        siblings = [c for c in parent.named_children if c.type not in ("decorator", "comment")]
        if len(siblings) != 1:
            break
        node = parent
    return node


def head_start(node: Node, outer: Node) -> int:
    return node.start_byte if outer.type == "decorated_definition" else outer.start_byte


def head_end(node: Node, body: Node) -> int:
    inner = body.child_by_field_name("body") or body.child_by_field_name("value")
    if node.type == "type_spec":  # Go: the braces are inside the type
        body_of = node.child_by_field_name("type")
        inner = body_of.named_children[-1] if body_of and body_of.type == "struct_type" else None
    before = inner.prev_sibling if inner else None
    while before is not None and before.type == "comment":
        before = before.prev_sibling
    return before.end_byte if before is not None else node.end_byte


def signature(head: str) -> str:
    head = re.sub(r"\s+", " ", head).strip()
    return re.sub(r"(\s*(=>|[{:=]))+$", "", head)[:SIGNATURE]


def receiver(node: Node) -> str | None:
    """Go: `func (s *Stack[T]) Push()` belongs to Stack."""
    found = node.child_by_field_name("receiver")
    match = re.search(r"([^\W\d]\w*)\s*(?:\[[^\]]*\])?\s*\)$", (found.text or b"").decode()) if found else None
    return match[1] if match else None
