#!/usr/bin/env bash
# Builds the first program of the README as a reader would, with the dependencies that the README names, and pipes 100,000
# lines into one copy of it: the copy at the other end has to print each of them, in order. Then the other way round, to two copies
# on the same host, one of which leaves in the middle: the one that stays has to print each line.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

lines=100000
root=$PWD
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-$root/target}"
place=$(mktemp -d)
started=()
trap 'kill "${started[@]}" 2>/dev/null || true; rm -rf "$place"' EXIT

# block LANGUAGE: the first block in that language.
block() {
    awk -v fence="^\`\`\`$1" '$0 ~ fence && !done { inside = 1; next } /^```/ && inside { inside = 0; done = 1 } inside' README.md
}

mkdir "$place/src"
block rust >"$place/src/main.rs"
{
    printf '[package]\nname = "first-program"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n\n'
    block toml | sed "s|path = \"../pea2pea\"|path = \"$root\"|"
} >"$place/Cargo.toml"
cp Cargo.lock "$place"
(cd "$place" && RUSTFLAGS="-D warnings" cargo build --quiet)
program=$CARGO_TARGET_DIR/debug/first-program

# start NAME [ADDR]: starts a copy whose input stays open.
start() {
    mkfifo "$place/$1.in"
    "$program" "${@:2}" <>"$place/$1.in" >"$place/$1.out" 2>&1 &
    started+=($!)
}

# wait_for WHAT COMMAND...: until the command succeeds, for two minutes at most.
wait_for() {
    for _ in $(seq 1200); do
        "${@:2}" >/dev/null 2>&1 && return
        sleep 0.1
    done
    echo "waited in vain for $1"
    tail -n 3 "$place"/*.out
    exit 1
}

has() { grep -qE "$2" "$place/$1.out"; }

# has_all NAME: whether the last line has come.
has_all() { has "$1" ": $lines\$"; }

# check_all NAME: each line has come, once and in order.
check_all() {
    diff -q <(sed -nE 's/^127\.0\.0\.1:[0-9]+: ([0-9]+)$/\1/p' "$place/$1.out") <(seq 1 "$lines") >/dev/null || {
        echo "$1 got $(grep -cE ': [0-9]+$' "$place/$1.out") of $lines lines"
        exit 1
    }
}

start listener
wait_for "the port" has listener '^listening on port [0-9]+$'
addr=127.0.0.1:$(sed -n 's/^listening on port //p' "$place/listener.out")
seq 1 "$lines" | timeout 120 "$program" "$addr" >"$place/sender.out" 2>&1 || { echo "the sender failed"; cat "$place/sender.out"; exit 1; }

is_quiet() { local before; before=$(wc -l <"$place/listener.out"); sleep 0.5; [ "$before" = "$(wc -l <"$place/listener.out")" ]; }
wait_for "what is still on its way" is_quiet
check_all listener

start stays "$addr"
start leaves "$addr"
leaves=${started[-1]}
for name in stays leaves; do
    # It can be written to from when the first word of it has come.
    echo "this is $name" >"$place/$name.in"
    wait_for "$name" has listener "this is $name"
done
seq 1 "$lines" >"$place/listener.in" &
wait_for "the first lines" has leaves ': 10$'
kill "$leaves"
wait_for "the last line" has_all stays
check_all stays
if grep -q '0\.0\.0\.0' "$place"/*.out; then echo "an address that nobody can dial is printed"; exit 1; fi
echo "the first program of the README: $lines lines there and $lines back, none lost"
