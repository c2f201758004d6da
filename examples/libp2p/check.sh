#!/usr/bin/env bash
# Runs the short mode and looks for the lines that its output has to have: expected.txt holds one extended regular expression
# per line, in the order in which they have to appear.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
. ../matches_in_order.sh

output=$(mktemp)
trap 'rm -f "$output"' EXIT
cargo build --quiet
EXAMPLE_SHORT=1 RUST_BACKTRACE=0 timeout 30 cargo run --quiet </dev/null >"$output" 2>&1 || { cat "$output"; echo "FAILED libp2p"; exit 1; }
cat "$output"

matches_in_order "$output" expected.txt || { echo "FAILED libp2p"; exit 1; }
echo "ok     libp2p"
