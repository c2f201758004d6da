#!/usr/bin/env bash
# Runs the short mode of each example and looks for the lines that its output has to have: examples/expected/NAME.txt holds
# one extended regular expression per line, in the order in which they have to appear. An example without such a file, and a
# file without an example, is a failure. Then ctrl_c.sh looks at those that go on until Ctrl-C. With names as arguments: only those.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. examples/matches_in_order.sh

export EXAMPLE_SHORT=1 RUST_BACKTRACE=0
limit=30 # seconds; the short mode is to take at most 10 on a quiet machine
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT

# The examples of the root package are built and run here; those of the packages below have scripts of their own.
# An example is a file, or a directory with a main.rs.
mapfile -t all < <(find examples -maxdepth 2 \( -path 'examples/*/main.rs' -o -path 'examples/*.rs' ! -path 'examples/*/*' \) |
    sed -E 's#^examples/##; s#(/main)?\.rs$##' | sort)
names=("${@:-${all[@]}}")

failures=0
for file in examples/expected/*.txt; do
    name=$(basename "$file" .txt)
    [ -f "examples/$name.rs" ] || [ -f "examples/$name/main.rs" ] || { echo "$file has no example"; failures=$((failures + 1)); }
done

cargo build --quiet --examples
for name in "${names[@]}"; do
    expected="examples/expected/$name.txt" output="$outputs/$name" begun=$SECONDS
    if [ ! -f "$expected" ]; then
        echo "FAILED $name: $expected is missing"
    elif ! timeout "$limit" cargo run --quiet --example "$name" </dev/null >"$output" 2>&1; then
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
bash examples/ctrl_c.sh "$@"
echo "all ${#names[@]} examples did what they say"
