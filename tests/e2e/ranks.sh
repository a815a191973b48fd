#!/bin/sh
# The same run on 1, 2 and 3 ranks, and begun on 3 and ended on 2: the same bits. Scores too.
. "$(dirname "$0")/stage.sh"
needs_ranks
train one 1
train two 2
train three 3
train moved 3 train.steps=4
train moved 2
for other in two three moved; do
    say "one rank and $other"
    same_runs one $other
done
# the comparison can fail: another seed is another run
train other 1 train.seed=1
(same_runs one other) >/dev/null && die "another seed gave the same run"

say "scores"
for ranks in 1 2; do
    "$samforge" launch -n $ranks eval "$stage/one" "$stage/val" --json >"$stage/$ranks.json" 2>"$stage/eval.log" || {
        cat "$stage/eval.log"
        die "eval on $ranks ranks"
    }
done
grep -q '"click_1": 0\.' "$stage/1.json" || die "no scores: $(head -c 300 "$stage/1.json")"
cmp "$stage/1.json" "$stage/2.json" || die "the scores on 1 and 2 ranks differ"
echo "passed"
