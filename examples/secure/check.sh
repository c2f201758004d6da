#!/usr/bin/env bash
# Runs the short mode of noise and tls and looks for the lines that their output has to have, as ../check.sh does for the
# examples of the root package: expected/NAME.txt holds one extended regular expression per line, in order. With names as
# arguments: only those.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../matches_in_order.sh

export EXAMPLE_SHORT=1 RUST_BACKTRACE=0
limit=30 # seconds; the short mode takes about one on a quiet machine
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT

mapfile -t all < <(find src/bin -name '*.rs' -printf '%f\n' | sed 's/\.rs$//' | sort)
names=("${@:-${all[@]}}")

failures=0
for file in expected/*.txt; do
    name=$(basename "$file" .txt)
    [ -f "src/bin/$name.rs" ] || { echo "$file has no example"; failures=$((failures + 1)); }
done

cargo build --quiet --release --bins
for name in "${names[@]}"; do
    expected="expected/$name.txt" output="$outputs/$name" begun=$SECONDS
    if [ ! -f "$expected" ]; then
        echo "FAILED $name: $expected is missing"
    elif ! timeout "$limit" cargo run --quiet --release --bin "$name" </dev/null >"$output" 2>&1; then
        sed 's/^/    /' "$output"
        echo "FAILED $name: exit code not 0, or longer than $limit s"
    elif ! matches_in_order "$output" "$expected"; then
        sed 's/^/    /' "$output"
        echo "FAILED $name"
    else
        echo "ok     $name ($((SECONDS - begun)) s)"
        continue
    fi
    failures=$((failures + 1))
done
[ "$failures" -eq 0 ] || { echo "$failures of the examples failed"; exit 1; }
echo "all ${#names[@]} examples did what they say"
