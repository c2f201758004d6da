#!/usr/bin/env python3
"""Checks every Markdown file of the repository: links, anchors, paths, the language of code blocks, and cargo commands.

Addresses of other sites are listed and not fetched. Links with `::` are rustdoc's to check, and so is what Rust blocks compile to.
"""
import fnmatch, json, pathlib, re, subprocess, sys, urllib.parse

ROOT = pathlib.Path(__file__).resolve().parent.parent
LANGUAGES = {"rust", "sh", "text", "toml", "dot"}
# Looks like a file of this repository: a site.
NOT_FILES = {"docs.rs"}
failures, outside, seen = [], set(), {"links": 0, "anchors": 0, "paths": 0, "blocks": 0, "commands": 0}


def output(*command):
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


FILES = [f for f in output("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines() if (ROOT / f).is_file()]
FOLDERS = {str(parent) for f in FILES for parent in pathlib.PurePath(f).parents} - {"."}
TOP = {f.split("/")[0] for f in FILES if "/" in f}


def package(folder, _cache={}):
    """The names that cargo's options may take in a package: {"example": {...}, "features": {...}, ...}."""
    if folder not in _cache:
        names = {"features": set()}
        metadata = json.loads(output("cargo", "metadata", "--no-deps", "--format-version=1", "--manifest-path", str(folder / "Cargo.toml")))
        for entry in metadata["packages"]:
            names["features"] |= set(entry["features"])
            names.setdefault("package", set()).add(entry["name"])
            for target in entry["targets"]:
                names.setdefault(target["kind"][0], set()).add(target["name"])
        _cache[folder] = names
    return _cache[folder]


def anchors(path, _cache={}):
    """The anchors of a file's headings, as GitHub makes them."""
    if path not in _cache:
        found, prose, _ = set(), [], None
        for _, line, language in lines(path):
            if language is None and (heading := re.match(r"#{1,6} +(.*?)(?: +#+)?$", line)):
                text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
                slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
                count = sum(a == slug or re.fullmatch(re.escape(slug) + r"-\d+", a) is not None for a in found)
                found.add(f"{slug}-{count}" if count else slug)
        _cache[path] = found
    return _cache[path]


def lines(path):
    """Yields (number, line, language); the language is None outside of code, "" in a block without one, "indented" in that kind."""
    fence, language, before, in_list = None, None, "", False
    for number, line in enumerate(path.read_text().splitlines(), 1):
        mark = re.match(r" *(`{3,}|~{3,}) *([^`]*)$", line)
        if fence is None and mark:
            fence, language = mark[1], mark[2].strip()
            seen["blocks"] += 1
            yield number, "", language
        elif fence is not None:
            if mark and mark[1].startswith(fence) and not mark[2]:
                fence = language = None
            else:
                yield number, line, language
        else:
            in_list = bool(re.match(r" *([-*+]|\d+\.) ", line)) or in_list and (not line.strip() or line.startswith(" "))
            indented = line.startswith("    ") and not in_list and (not before.strip() or before.startswith("    "))
            yield number, line, "indented" if indented else None
            before = line


def exists(name, folder):
    """Whether a file, a folder, a module or a pattern exists: from the root, from the file's own folder, or, alone, anywhere."""
    name = name.rstrip("/")
    for place in (ROOT, folder):
        try:
            wanted = str((place / name).resolve().relative_to(ROOT))
        except ValueError:
            continue
        if wanted in FOLDERS or any(fnmatch.fnmatch(f, wanted) or f == wanted + ".rs" for f in FILES):
            return True
    if "/" not in name:
        return any(fnmatch.fnmatch(f.rsplit("/", 1)[-1], name) for f in FILES)
    return subprocess.run(["git", "check-ignore", "-q", name], cwd=ROOT).returncode == 0


def check_command(command, folder, report):
    """Follows `cd`, and checks what scripts and cargo are told to run; returns the folder for the next line."""
    before, subshell = folder, command.lstrip().startswith("(")
    for part in re.split(r"&&|;|\||[()]", command.split(" #")[0]):
        words = [w for w in part.split() if not re.match(r"[A-Z_]+=", w)] + ["", ""]
        if words[0] == "cd":
            folder = (folder / words[1]).resolve()
            folder.is_dir() or report(f"no such folder: {words[1]}")
        elif words[0].endswith(".sh") and not (folder / words[0]).is_file():
            report(f"no such script: {words[0]}")
        elif words[0] in ("bash", "sh") and not (folder / words[1]).is_file():
            report(f"no such script: {words[1]}")
        elif words[0] == "cargo":
            seen["commands"] += 1
            words = words[: words.index("--")] if "--" in words else words
            options = list(zip(words, words[1:]))
            manifest = [value for option, value in options if option == "--manifest-path"]
            place = (folder / manifest[0]).parent if manifest else folder
            if not (place / "Cargo.toml").is_file():
                report(f"no package at {manifest[0] if manifest else place}")
                continue
            names = package(place)
            for option, value in options:
                kind = {"--example": "example", "--test": "test", "--bench": "bench", "--bin": "bin", "-p": "package", "--package": "package",
                        "--features": "features", "--exclude": "package"}.get(option)
                if kind and not value.isupper() and not set(value.split(",")) <= names.get(kind, set()):
                    report(f"no {kind} {value} in {place.relative_to(ROOT) if place != ROOT else 'the root package'}")
            if words[1:3] == ["fuzz", "run"] and not words[3].isupper() and words[3] not in package(ROOT / "fuzz")["bin"]:
                report(f"no fuzz target {words[3]}")
    return before if subshell else folder


def check_link(target, path, report):
    if re.match(r"(https?|mailto):", target):
        outside.add(target)
    elif "::" not in target:
        seen["links"] += 1
        name, _, anchor = urllib.parse.unquote(target).partition("#")
        file = (path.parent / name).resolve() if name else path
        if not file.exists() or (name and not exists(str(file.relative_to(ROOT)), ROOT)):
            report(f"broken link: {target}")
        elif anchor and file.suffix == ".md":
            seen["anchors"] += 1
            anchor in anchors(file) or report(f"no such heading: {target}")


def check(path):
    shown, folder, block = path.relative_to(ROOT), ROOT, None
    for number, line, language in lines(path):
        report = lambda what: failures.append(f"{shown}:{number}: {what}")
        if language is not None:
            if language == "indented":
                report("a code block by indentation: fence it, and name its language")
            elif line == "" and block is None and language.split(",")[0] not in LANGUAGES:
                report(f"a code block whose language is {language or 'not named'}; known are {', '.join(sorted(LANGUAGES))}")
            folder = check_command(line, folder if block else ROOT, report) if language == "sh" else ROOT
            block = language
            continue
        block = None
        for code in re.findall(r"`([^`]+)`", line):
            if re.match(r"([A-Z_]+=\S+ )*(cargo|bash|cd) ", code.replace('"', "")):
                check_command(re.sub(r'"[^"]*"', "x", code), ROOT, report)
            elif re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", code) and code not in NOT_FILES and not code.split("/")[-1].isupper():
                if code.split("/")[0] in TOP and "/" in code or code.endswith((".rs", ".sh", ".md", ".toml", ".dot")):
                    seen["paths"] += 1
                    exists(code, path.parent) or report(f"no such file: {code}")
        prose = re.sub(r"`[^`]*`", "", line)
        for target in re.findall(r"\]\(<?([^)\s>]+)[^)]*\)", prose) + re.findall(r"^ *\[[^]]+\]: *(\S+)", prose):
            check_link(target, path, report)
        outside.update(re.findall(r"<(https?://[^>]+)>", prose))


for name in sorted(f for f in FILES if f.endswith(".md")):
    check(ROOT / name)
print(f"{sum(f.endswith('.md') for f in FILES)} Markdown files:", ", ".join(f"{count} {what}" for what, count in seen.items()))
print("not fetched:", *sorted(outside), sep="\n    ")
print(*failures, f"{len(failures)} broken", sep="\n")
sys.exit(bool(failures))
