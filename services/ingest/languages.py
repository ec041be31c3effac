"""The language of a file by its name, and which tree-sitter grammar reads it."""

from functools import cache
from pathlib import PurePosixPath

import tree_sitter
import tree_sitter_c
import tree_sitter_go
import tree_sitter_javascript
import tree_sitter_python
import tree_sitter_rust
import tree_sitter_typescript

BY_SUFFIX = {
    ".py": "Python", ".pyi": "Python", ".pyx": "Cython",
    ".js": "JavaScript", ".mjs": "JavaScript", ".cjs": "JavaScript",
    ".jsx": "JavaScript", ".ts": "TypeScript", ".mts": "TypeScript", ".cts": "TypeScript", ".tsx": "TSX", ".go": "Go",
    ".rs": "Rust", ".c": "C", ".h": "C", ".cc": "C++", ".cpp": "C++", ".cxx": "C++", ".hpp": "C++", ".hh": "C++",
    ".java": "Java", ".kt": "Kotlin", ".scala": "Scala", ".swift": "Swift", ".rb": "Ruby", ".php": "PHP", ".cs": "C#",
    ".sh": "Shell", ".bash": "Shell", ".zsh": "Shell", ".pl": "Perl", ".lua": "Lua", ".r": "R", ".jl": "Julia",
    ".hs": "Haskell", ".ml": "OCaml", ".ex": "Elixir", ".erl": "Erlang", ".clj": "Clojure",
    ".zig": "Zig", ".dart": "Dart",
    ".sql": "SQL", ".html": "HTML", ".htm": "HTML", ".css": "CSS", ".scss": "SCSS", ".vue": "Vue", ".svelte": "Svelte",
    ".md": "Markdown", ".markdown": "Markdown", ".mdx": "Markdown", ".rst": "reStructuredText", ".txt": "Text",
    ".json": "JSON", ".yaml": "YAML", ".yml": "YAML", ".toml": "TOML", ".ini": "INI", ".cfg": "INI", ".xml": "XML",
    ".proto": "Protocol Buffers", ".cu": "CUDA", ".tf": "Terraform", ".cmake": "CMake", ".ps1": "PowerShell",
}  # fmt: skip
BY_NAME = {
    "makefile": "Makefile", "gnumakefile": "Makefile", "dockerfile": "Dockerfile", "cmakelists.txt": "CMake",
    "license": "Text", "readme": "Text", "changelog": "Text", "authors": "Text", "gemfile": "Ruby", "rakefile": "Ruby",
}  # fmt: skip
PROSE = {"Markdown", "reStructuredText", "Text"}
GRAMMARS = {
    "Python": tree_sitter_python.language,
    "JavaScript": tree_sitter_javascript.language,
    "TypeScript": tree_sitter_typescript.language_typescript,
    "TSX": tree_sitter_typescript.language_tsx,
    "Go": tree_sitter_go.language,
    "Rust": tree_sitter_rust.language,
    "C": tree_sitter_c.language,
}


def language_of(path: str) -> str | None:
    name = PurePosixPath(path).name.lower()
    return BY_NAME.get(name) or BY_SUFFIX.get(PurePosixPath(name).suffix)


@cache
def parser_of(language: str) -> tree_sitter.Parser | None:
    grammar = GRAMMARS.get(language)
    return tree_sitter.Parser(tree_sitter.Language(grammar())) if grammar else None
