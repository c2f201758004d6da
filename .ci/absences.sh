#!/usr/bin/env bash
# The absences: what must not be found in a source file. Each rule is one grep over the code of some files, where "code"
# leaves out comments and the unit tests at a file's end. A file that a rule names must exist, so that no rule can go blind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failures=0

# The code of one file, each line behind `file:line:`.
code() {
    awk -v file="$1" '
        /^[[:space:]]*\/\// { next }
        attribute != ""     { if ($0 ~ /^[[:space:]]*(pub(\([a-z]+\))? )?mod [a-z_]*tests?[a-z_]* *\{/) exit; print attribute; attribute = "" }
        /^#\[cfg\(test\)\]/ { attribute = file ":" FNR ":" $0; next }
        { sub(/[[:space:]]\/\/ .*$/, ""); print file ":" FNR ":" $0 }
    ' "$1"
}

# The source files of a module, whether it is a file, a directory or both.
module() {
    find "src/$1.rs" "src/$1" -name '*.rs' 2>/dev/null | sort || true
}

# absent RULE PATTERN FILE...
absent() {
    local rule=$1 pattern=$2 file found=""
    shift 2
    [ $# -gt 0 ] || { echo "no source file for the rule: $rule"; failures=$((failures + 1)); return; }
    for file in "$@"; do
        [ "$(code "$file" | wc -l)" -gt 0 ] || { echo "$file has no code to look at, for the rule: $rule"; failures=$((failures + 1)); }
    done
    found=$(for file in "$@"; do code "$file"; done | grep -E "^[^:]+:[0-9]+:.*($pattern)" || true)
    if [ -n "$found" ]; then
        echo "broken: $rule"
        echo "$found" | sed 's/^/    /'
        failures=$((failures + 1))
    else
        echo "holds:  $rule ($# files)"
    fi
}

# Every source file that is not in one of the named modules, nor for tests only.
outside() {
    local name skip=()
    for name in "$@"; do skip+=(! -path "src/$name.rs" ! -path "src/$name/*"); done
    find src -name '*.rs' ! -path 'src/checks/*' "${skip[@]}" | sort
}

mapfile -t registry < <(module registry)
mapfile -t inbound < <(module inbound)
mapfile -t outbound < <(module outbound)

absent "the registry never awaits" '\.await|async ' "${registry[@]}"
absent "the registry never spawns" 'spawn' "${registry[@]}"
absent "the registry never logs" 'tracing|(trace|debug|info|warn|error|println|eprintln)!' "${registry[@]}"
absent "the registry does no I/O" 'tokio::(net|io)|std::(net::Tcp|fs)|TcpStream|TcpListener' "${registry[@]}"
absent "the registry calls no hook" '[Hh]ook|Codec|Encoder|Decoder' "${registry[@]}"

absent "the way in knows no node" '\bNode\b|\bPea2Pea\b|\b(node|kernel|registry|lifecycle|listener)::' "${inbound[@]}"
absent "the way out knows no node" '\bNode\b|\bPea2Pea\b|\b(node|kernel|registry|lifecycle|listener)::' "${outbound[@]}"

mapfile -t below < <(outside lib node lifecycle topology protocols)
absent "nothing below points up" '\b(node|lifecycle|protocols)::' "${below[@]}"

mapfile -t parts < <(outside lib node lifecycle kernel topology protocols)
absent "no part of a node knows the node" '\b(kernel|listener)::' "${parts[@]}"

mapfile -t spawns_nothing < <(outside lifecycle)
absent "only the lifecycle spawns" '\bspawn(_[a-z]+)?\(|JoinSet' "${spawns_nothing[@]}"

mapfile -t holds_no_connections < <(outside registry)
absent "no other module holds connections behind a lock" '(Mutex|RwLock)<.*(Map<|Connection)' "${holds_no_connections[@]}"

[ "$failures" -eq 0 ] || { echo "$failures broken"; exit 1; }
