#!/usr/bin/env bash
# Runs the short mode and looks for the lines that its output has to have: expected.txt holds one extended regular expression
# per line, in the order in which they have to appear.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

output=$(mktemp)
trap 'rm -f "$output"' EXIT
cargo build --quiet
EXAMPLE_SHORT=1 RUST_BACKTRACE=0 timeout 30 cargo run --quiet </dev/null >"$output" 2>&1 || { cat "$output"; echo "FAILED libp2p"; exit 1; }
cat "$output"

line=0
while IFS= read -r pattern; do
    found=$(tail -n "+$((line + 1))" "$output" | grep -nEm1 -- "$pattern" | cut -d: -f1) || true
    [ -n "$found" ] || { echo "FAILED libp2p: no such line after line $line: $pattern"; exit 1; }
    line=$((line + found))
done <expected.txt
[ "$line" -gt 0 ] || { echo "FAILED libp2p: expected.txt asks for nothing"; exit 1; }
echo "ok     libp2p"
