# For the check.sh of the examples.

# matches_in_order OUTPUT PATTERNS: whether the lines of OUTPUT match the extended regular expressions of PATTERNS, one per
# line, in their order.
matches_in_order() {
    local line=0 pattern found
    while IFS= read -r pattern; do
        [ -n "$pattern" ] || continue
        found=$(tail -n "+$((line + 1))" "$1" | grep -nEm1 -- "$pattern" | cut -d: -f1) || true
        [ -n "$found" ] || { echo "    no such line after line $line: $pattern"; return 1; }
        line=$((line + found))
    done <"$2"
    [ "$line" -gt 0 ] || { echo "    $2 asks for nothing"; return 1; }
}
