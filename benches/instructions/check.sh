#!/usr/bin/env bash
# Counts the instructions of sending, receiving, connecting and ending under callgrind, and compares them with the counts that
# are kept in counts.tsv. Exits with 1 when one of them is more than 5 % above, or is not kept at all; says so when one is more than
# 5 % below, for what was won is to be kept. `--update` writes the counts instead. It measures no time: it may run on a busy machine.
set -euo pipefail

tolerance=5
update=""
case "${1:-}" in
"") ;;
--update) update=1 ;;
*) echo "usage: check.sh [--update]" >&2; exit 2 ;;
esac

command -v valgrind >/dev/null || {
    echo "check.sh needs valgrind, which is not installed: e.g. 'apt-get install valgrind', 'dnf install valgrind'" >&2
    exit 2
}
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-$here/target}")
export CARGO_TARGET_DIR
cd "$here"
cargo build --release --quiet --locked
program=$CARGO_TARGET_DIR/release/pea2pea-instructions

# count OPERATION REPETITIONS: the instructions of the whole run.
count() {
    local said
    said=$(timeout 300 valgrind --tool=callgrind --callgrind-out-file=/dev/null "$program" "$1" "$2" 2>&1) || { echo "$said" >&2; return 1; }
    awk '/Collected :/ { print $NF }' <<<"$said"
}

compiler=$(rustc --version | awk '{ print $1, $2 }')
kept_with=$(sed -n 's/^# counted with \(.*\)$/\1/p' counts.tsv 2>/dev/null || true)
[ -n "$update" ] || [ "$compiler" = "$kept_with" ] || echo "note: the counts were taken with $kept_with, this is $compiler"

operations=$("$program")
counted=$(mktemp)
trap 'rm -f "$counted"' EXIT
echo "# counted with $compiler" >"$counted"
worse=0 better=0
printf '%-16s %-14s %12s %12s %8s\n' operation per kept counted change
while IFS=$'\t' read -r name units fewer more; do
    low=$(count "$name" "$fewer")
    high=$(count "$name" "$more")
    each=$(((high - low) / (more - fewer)))
    printf '%s\t%s\n' "$name" "$each" >>"$counted"
    kept=$(awk -F '\t' -v name="$name" '$1 == name { print $2 }' counts.tsv 2>/dev/null || true)
    verdict="" change="-"
    if [ -z "$kept" ]; then
        verdict="is not kept yet"
        worse=$((worse + 1))
    else
        change=$(awk -v now="$each" -v kept="$kept" 'BEGIN { printf "%+.1f %%", (now / kept - 1) * 100 }')
        if [ $((each * 100)) -gt $((kept * (100 + tolerance))) ]; then
            verdict="TOO MANY"
            worse=$((worse + 1))
        elif [ $((each * 100)) -lt $((kept * (100 - tolerance))) ]; then
            verdict="fewer"
            better=$((better + 1))
        fi
    fi
    printf '%-16s %-14s %12s %12s %8s %s\n' "$name" "$units" "${kept:--}" "$each" "$change" "$verdict"
done <<<"$operations"

if [ -n "$update" ]; then
    cp "$counted" counts.tsv
    echo "counts.tsv is written"
    exit
fi
[ "$better" -eq 0 ] || echo "$better of the counts are more than $tolerance % below what is kept: run check.sh --update, so that it stays won"
[ "$worse" -eq 0 ] || {
    echo "$worse of the counts are more than $tolerance % above what is kept, or not kept; if that is meant, run check.sh --update" >&2
    exit 1
}
