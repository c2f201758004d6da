#!/usr/bin/env bash
# Builds a hello node from nothing, in release, over this crate and over the published one, in turn; measures the time of each
# build and its stripped program, and writes benches/results/build-size.md. `measure.sh [PAIRS]`; 3 pairs if not told otherwise.
set -euo pipefail

pairs=${1:-3}
[[ $pairs =~ ^[1-9][0-9]*$ ]] || { echo "usage: measure.sh [PAIRS]" >&2; exit 2; }
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
results=${BENCH_RESULTS:-$here/../results}
target=$(mktemp -d)
trap 'rm -rf "$target"' EXIT
cd "$here"

for crate in ours published; do
    cargo fetch --locked --quiet --manifest-path "$crate/Cargo.toml"
done

# build CRATE: builds from nothing, and prints the milliseconds of wall clock, those of CPU time, and the bytes of the program.
build() {
    local program=$target/$1/release/hello said wall cpu
    rm -rf "${target:?}/$1"
    { time cargo build --release --locked --offline --quiet --manifest-path "$1/Cargo.toml" --target-dir "$target/$1" \
        --config 'profile.release.strip=true' 2>"$target/said"; } 2>"$target/time" || { cat "$target/said" >&2; return 1; }
    read -r wall cpu < <(awk '{ printf "%d %d\n", $1 * 1000, ($2 + $3) * 1000 }' "$target/time")
    said=$("$program")
    [ "$said" = hello ] || { echo "the hello node of $1 said: $said" >&2; return 1; }
    echo "$wall $cpu $(stat -c %s "$program")"
}
TIMEFORMAT='%R %U %S'

# median: of the numbers on standard input.
median() { sort -g | awk '{ value[NR] = $1 } END { print (NR % 2) ? value[(NR + 1) / 2] : (value[NR / 2] + value[NR / 2 + 1]) / 2 }'; }

measured=$target/measured
for ((pair = 1; pair <= pairs; pair++)); do
    order=(ours published)
    ((pair % 2)) || order=(published ours)
    for crate in "${order[@]}"; do
        echo "$pair/$pairs $crate" >&2
        built=$(build "$crate")
        echo "$pair $crate $built" >>"$measured"
    done
done

# column CRATE FIELD, ratio FIELD: medians over the pairs.
column() { awk -v crate="$1" -v field="$2" '$2 == crate { print $field }' "$measured" | median; }
ratio() {
    awk -v field="$1" '$2 == "ours" { ours[$1] = $field } $2 == "published" { theirs[$1] = $field }
        END { for (pair in ours) print ours[pair] / theirs[pair] }' "$measured" | median
}
row() {
    awk -v name="$1" -v ours="$(column ours "$2")" -v theirs="$(column published "$2")" -v ratio="$(ratio "$2")" -v divisor="$3" -v form="$4" \
        'BEGIN { printf "| %s | " form " | " form " | **%.2f** |\n", name, ours / divisor, theirs / divisor, ratio }'
}
packages() { grep -c '^name = ' "$1/Cargo.lock"; }

mkdir -p "$results"
{
    echo "# What a hello node costs to build"
    echo
    echo "A clean release build, and the stripped program; pairs of builds in turn: $pairs. Medians of the values and of the ratios within a pair."
    echo "$(nproc) cores, $(rustc --version | awk '{ print $1, $2 }'), $(uname -s) $(uname -r | cut -d. -f1,2)."
    echo
    echo "| what | this crate | 0.57.4 | ratio |"
    echo "|---|---:|---:|---:|"
    row "build, wall clock, s" 3 1000 %.1f
    row "build, CPU time, s" 4 1000 %.1f
    row "stripped program, kB" 5 1000 %.0f
    echo "| packages in the lock file, the node itself among them | $(packages ours) | $(packages published) | |"
} | tee "$results/build-size.md"
