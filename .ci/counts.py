#!/usr/bin/env python3
"""Counts what makes the code in src/ hard to hold in one's head, without tests: lines, types, `Drop`s,
atomics, thread-locals, and circles of modules, of which there may be none. `counts.py [ROOT]` does so for another tree."""

import re
import sys
from pathlib import Path

ROOT = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent)
SRC = ROOT / "src"
# Where atomics are counters of a user's, or the types of those that are counted.
COUNTERS = ("stats.rs", "heuristics.rs", "sync.rs")


def code_of(path):
    """The lines of a file that are neither blank, nor comments, nor a unit test at its end."""
    lines, kept = path.read_text().splitlines(), []
    for number, line in enumerate(lines):
        if line.startswith(("#[cfg(test)]", "#[cfg(all(test,")) and re.match(r"mod \w+ *\{", lines[number + 1]):
            break
        if line.strip() and not line.strip().startswith("//"):
            kept.append(line)
    return kept


def is_production(path):
    return not path.name.endswith("tests.rs") and not {"checks", "fuzzing", "schedules"} & set(path.parts)


def module_of(path):
    """The name of the top-level module that a file belongs to."""
    first = path.relative_to(SRC).parts[0]
    return first.removesuffix(".rs")


def names_after_crate(code):
    """The first names of all paths that begin with `crate`."""
    for match in re.finditer(r"\bcrate::(\{|\w+)", code):
        if match[1] != "{":
            yield match[1]
            continue
        depth, place, begins = 1, match.end(), True
        while depth > 0:
            name = re.match(r"\w+", code[place:])
            if name and begins and depth == 1:
                yield name[0]
            if name:
                place, begins = place + name.end(), False
                continue
            depth += {"{": 1, "}": -1}.get(code[place], 0)
            begins = begins and code[place].isspace() or code[place] == ","
            place += 1


def circles(graph):
    """The modules that can reach themselves, in groups."""
    def reach(start):
        seen, ahead = set(), [start]
        while ahead:
            for following in graph[ahead.pop()] - seen:
                seen.add(following)
                ahead.append(following)
        return seen

    reached = {module: reach(module) for module in graph}
    return sorted({tuple(sorted(other for other in reached[module] if module in reached[other])) for module in graph if module in reached[module]})


files = {path: code_of(path) for path in sorted(SRC.rglob("*.rs")) if is_production(path)}
modules = {module_of(path) for path in files} - {"lib"}
graph = {module: set() for module in modules}
for path, code in files.items():
    module = module_of(path)
    if module in graph:
        graph[module] |= {name for name in names_after_crate("\n".join(code)) if name in modules and name != module}

everything = "\n".join(line for code in files.values() for line in code)


def count(pattern, code=everything):
    return len(re.findall(pattern, code, re.M))


beside_counters = "\n".join(line for path, code in files.items() if path.name not in COUNTERS for line in code)
print("lines:        ", sum(map(len, files.values())))
print("files:        ", len(files))
print("types:        ", count(r"^ *(?:pub(?:\([a-z]+\))? )?(?:struct|enum|trait) [A-Z]"))
print("impl Drop:    ", count(r"^ *impl.*\bDrop for\b"))
print("atomics:      ", count(r"\w: (?:Arc<)?Atomic\w+", beside_counters), "beside counters")
print("thread-locals:", count(r"^ *static \w+: (?:Ref)?Cell<"))
found = circles(graph)
print("circles:      ", str(len(found)) + "".join(f"\n    {', '.join(circle)}" for circle in found))
sys.exit(bool(found))
