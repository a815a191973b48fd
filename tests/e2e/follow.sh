# Runs of the same steps on two devices, side by side: . "$(dirname "$0")/follow.sh" behind stage.sh.

# column RUN KEY: a line a step; a step without a number has "-"
column() {
    sed -n '/"train\/loss\/total"/p' "$stage/$1/metrics.jsonl" |
        sed -E 's/.*"'"$(echo "$2" | sed 's,/,\\/,g')"'":([^,}]*).*/\1/; s/^(\{.*|null)$/-/'
}

# apart A B KEY BOUND: whether KEY of two runs differs, of itself, by more than BOUND in the step in the middle or ten times that in
# any: one unit of a ReLU that rounding turns is felt in one step, not in most. Says by how much. A step in which one run has a
# number and the other has none is infinitely far.
apart() {
    column "$1" "$3" >"$stage/a.column"
    column "$2" "$3" >"$stage/b.column"
    [ -s "$stage/a.column" ] && [ "$(wc -l <"$stage/a.column")" = "$(wc -l <"$stage/b.column")" ] || {
        echo "-- $1, $2: not the same number of steps, or none"
        return 0
    }
    paste "$stage/a.column" "$stage/b.column" | awk '
        $1 == $2 { print 0; next }
        $1 == "-" || $2 == "-" || $2 == 0 { print 1e30; next }
        { d = $1 / $2 - 1; print d < 0 ? -d : d }' | sort -g |
        awk -v what="$1 and $2, $3" -v bound="$4" '
        { d[NR] = $1 }
        END {
            middle = d[int((NR + 1) / 2)]
            printf "-- %s: %d steps, apart by %.1e, %.1e at most\n", what, NR, middle, d[NR]
            exit middle <= bound && d[NR] <= 10 * bound
        }'
}
