#!/usr/bin/env python3
"""Prints every public item of the crate, sorted, one per line, from rustdoc's JSON: `public_api.py target/doc/pea2pea.json`.

A provided method ends with `{ .. }`, a required one with `;`. Of trait implementations the header alone is listed, auto traits among
them, blanket ones left out. Names in signatures are as in the source. The module `guide` is documentation only, and is left out.
"""
import json, sys

FORMATS = range(56, 60)  # what this was written for; rustdoc says in each file which it is
# Auto traits and markers that are no stable part of Rust.
UNSTABLE = {"Freeze", "StructuralPartialEq", "UnsafeUnpin"}
data = json.load(open(sys.argv[1]))
if data["format_version"] not in FORMATS:
    sys.exit(f"rustdoc's format {data['format_version']} is not known here: see that the listing is complete, and widen FORMATS")
index, listed, places = data["index"], [], {}


def args(of):
    if not of:
        return ""
    if "parenthesized" in of:
        inner = of["parenthesized"]
        return f"({', '.join(map(ty, inner['inputs']))})" + (f" -> {ty(inner['output'])}" if inner["output"] else "")
    inner = of["angle_bracketed"]
    shown = [arg if isinstance(arg, str) else arg.get("lifetime") or (ty(arg["type"]) if "type" in arg else arg["const"]["expr"]) for arg in inner["args"]]
    for entry in inner["constraints"]:
        (kind, value), = entry["binding"].items()
        shown.append(entry["name"] + args(entry["args"]) + (f" = {term(value)}" if kind == "equality" else f": {bounds(value)}"))
    return f"<{', '.join(shown)}>" if shown else ""


def term(of):
    return ty(of["type"]) if "type" in of else of["constant"]["expr"]


def bound(of):
    (kind, value), = of.items()
    if kind == "outlives":
        return value
    if kind == "use":
        return f"use<{', '.join(str(next(iter(v.values())) if isinstance(v, dict) else v) for v in value)}>"
    sign = {"none": "", "maybe": "?", "maybe_const": "~const "}[value["modifier"]]
    return sign + higher(value["generic_params"]) + value["trait"]["path"] + args(value["trait"]["args"])


def bounds(of):
    return " + ".join(map(bound, of))


def higher(params):
    return f"for<{', '.join(p['name'] for p in params)}> " if params else ""


def ty(of):
    (kind, value), = of.items()
    match kind:
        case "resolved_path": return value["path"] + args(value["args"])
        case "generic" | "primitive": return value
        case "tuple": return f"({', '.join(map(ty, value))}{',' if len(value) == 1 else ''})"
        case "slice": return f"[{ty(value)}]"
        case "array": return f"[{ty(value['type'])}; {value['len']}]"
        case "impl_trait": return f"impl {bounds(value)}"
        case "borrowed_ref": return "&" + (value["lifetime"] + " " if value["lifetime"] else "") + ("mut " if value["is_mutable"] else "") + ty(value["type"])
        case "raw_pointer": return ("*mut " if value["is_mutable"] else "*const ") + ty(value["type"])
        case "qualified_path":
            trait = (value["trait"] or {}).get("path")
            return (f"<{ty(value['self_type'])} as {trait}>" if trait else ty(value["self_type"])) + f"::{value['name']}" + args(value["args"])
        case "dyn_trait":
            return "dyn " + " + ".join([higher(t["generic_params"]) + t["trait"]["path"] + args(t["trait"]["args"]) for t in value["traits"]] + [value["lifetime"]] * bool(value["lifetime"]))
        case "function_pointer": return "fn" + signature(value["sig"])
    raise ValueError(f"a type of an unknown kind: {kind}")


def signature(sig):
    def parameter(name, of):
        if name == "self":
            return {"Self": "self", "&Self": "&self", "&mut Self": "&mut self"}.get(ty(of), f"self: {ty(of)}")
        return f"{name}: {ty(of)}"
    return f"({', '.join(parameter(*entry) for entry in sig['inputs'])})" + (f" -> {ty(sig['output'])}" if sig["output"] else "")


def generics(of):
    def parameter(p):
        (kind, value), = p["kind"].items()
        if kind == "const":
            return f"const {p['name']}: {ty(value['type'])}"
        after = ": " + (bounds(value["bounds"]) if kind == "type" else " + ".join(value["outlives"]))
        return p["name"] + (after if after != ": " else "") + (f" = {ty(value['default'])}" if value.get("default") else "")
    shown = [parameter(p) for p in of["params"] if not p["kind"].get("type", {}).get("is_synthetic")]
    def condition(w):
        (kind, value), = w.items()
        if kind == "bound_predicate":
            return f"{higher(value['generic_params'])}{ty(value['type'])}: {bounds(value['bounds'])}"
        return f"{value['lifetime']}: {' + '.join(value['outlives'])}" if kind == "lifetime_predicate" else f"{ty(value['lhs'])} == {term(value['rhs'])}"
    where = ", ".join(map(condition, of["where_predicates"]))
    return f"<{', '.join(shown)}>" if shown else "", f" where {where}" if where else ""


def add(item, path, text):
    marks = "#[non_exhaustive] " if any("non_exhaustive" in str(a) for a in item["attrs"]) else ""
    listed.append(path + ": " + marks + ("#[deprecated] " if item["deprecation"] else "") + text)


def implementation(of, path):
    if of["trait"] is None:
        for each in of["items"]:
            visit(index[str(each)], path)
    elif of["blanket_impl"] is None and of["trait"]["path"] not in UNSTABLE:
        parameters, where = generics(of["generics"])
        add({"attrs": [], "deprecation": None}, path, f"impl{parameters} {'!' if of['is_negative'] else ''}{of['trait']['path']}{args(of['trait']['args'])} for {ty(of['for'])}{where}")


def visit(item, parent, in_trait=False):
    (kind, value), = item["inner"].items()
    path = f"{parent}::{item['name']}"
    parameters, where = generics(value["generics"]) if isinstance(value, dict) and "generics" in value else ("", "")
    children, impls = [], value.get("impls", []) if isinstance(value, dict) else []
    match kind:
        case "use":
            target = index.get(str(value["id"]))
            if value["is_glob"]:
                for each in target["inner"].get("module", target["inner"].get("enum", {})).get("items", []):
                    visit(index[str(each)], parent)
            elif target is None or target["crate_id"] != 0:
                add(item, f"{parent}::{value['name']}", f"pub use {value['source']}")
            else:
                visit(target | {"name": value["name"]}, parent)
            return
        case "module":
            if path == "pea2pea::guide":
                return
            children = value["items"]
            add(item, path, "pub mod")
        case "function":
            head = "".join(word + " " for word in ("const", "async", "unsafe") if value["header"]["is_" + word])
            add(item, path, f"{'' if in_trait else 'pub '}{head}fn {item['name']}{parameters}{signature(value['sig'])}{where}{' { .. }' if in_trait and value['has_body'] else ';'}")
        case "struct":
            shape = value["kind"]
            children = shape["plain"]["fields"] if "plain" in shape else [f for f in shape["tuple"] if f] if "tuple" in shape else []
            hidden = shape["plain"]["has_stripped_fields"] if "plain" in shape else "tuple" in shape and None in shape["tuple"]
            add(item, path, f"pub struct {item['name']}{parameters}{where}{' (with private fields)' if hidden else ''}")
        case "enum":
            children = value["variants"]
            add(item, path, f"pub enum {item['name']}{parameters}{where}")
        case "variant":
            shape, discriminant = value["kind"], value["discriminant"]
            children = [] if shape == "plain" else [f for f in shape.get("tuple") or shape["struct"]["fields"] if f]
            add(item, path, "variant" + (f" = {discriminant['value']}" if discriminant else ""))
        case "struct_field":
            add(item, path, f"pub {ty(value)}")
        case "trait":
            add(item, path, f"pub {'unsafe ' if value['is_unsafe'] else ''}trait {item['name']}{parameters}{': ' * bool(value['bounds'])}{bounds(value['bounds'])}{where}")
            children = value["items"]
        case "assoc_const":
            add(item, path, f"const {item['name']}: {ty(value['type'])}" + (f" = {value['value']}" if value["value"] is not None else ""))
        case "assoc_type":
            add(item, path, f"type {item['name']}{parameters}{': ' * bool(value['bounds'])}{bounds(value['bounds'])}{where}" + (f" = {ty(value['type'])}" if value["type"] else ""))
        case "constant":
            add(item, path, f"pub const {item['name']}: {ty(value['type'])} = {value['const']['expr']}")
        case "type_alias":
            add(item, path, f"pub type {item['name']}{parameters}{where} = {ty(value['type'])}")
        case _:
            raise ValueError(f"an item of an unknown kind: {kind} at {path}")
    if kind in ("struct", "enum", "trait"):
        if places.setdefault(item["id"], path) != path:
            listed[-1] += f" (as {places[item['id']]})"
            return
    for each in children:
        visit(index[str(each)], path, kind == "trait")
    for each in impls:
        implementation(index[str(each)]["inner"]["impl"], path)


root = index[str(data["root"])]
# What is re-exported from the root is described there, and named in other modules.
for each in sorted(root["inner"]["module"]["items"], key=lambda each: "module" in index[str(each)]["inner"]):
    visit(index[str(each)], root["name"])
print(*sorted(set(listed)), sep="\n")
