#!/bin/sh
# A run asked to stop saves, exits with 85, and goes on to the same end; by signal and by --stop-after. What is asked for within a
# long step is acknowledged at once.
. "$(dirname "$0")/stage.sh"
needs_ranks
settings="train.steps=60 optim.milestones=[40] checkpoint.every=0"
# shellcheck disable=SC2086
train whole 1 $settings

# stopped SIGNAL RANKS: begins a run in the background, asks it to stop when it has made a step
stopped() {
    name=stopped-$1-$2
    # shellcheck disable=SC2086
    "$samforge" launch -n "$2" train "$config" data.train="$stage/train" run.folder="$stage/$name" \
        $settings >"$stage/$name.log" 2>&1 &
    pid=$!
    tries=0
    until grep -q '"step":2' "$stage/$name/metrics.jsonl" 2>/dev/null; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || die "$name made no step in a minute: $(tail -n 3 "$stage/$name.log")"
        kill -0 $pid 2>/dev/null || break
        sleep 0.1
    done
    kill -"$1" $pid 2>/dev/null || true
    rc=0
    wait $pid || rc=$?
    say "$1 on $2 ranks: exit code $rc at step $(sed -n 's/.*"step": \([0-9]*\).*/\1/p' "$stage/$name/status.json")"
    [ $rc = 85 ] || {
        tail -n 20 "$stage/$name.log"
        die "$name ended with $rc, not 85"
    }
    # shellcheck disable=SC2086
    train "$name" "$2" $settings
    same_runs whole "$name"
}
stopped USR1 2
stopped TERM 1
stopped HUP 1

# until_true COMMAND…: waits for it to be true of the run in the background, whose output is in $log
until_true() {
    tries=0
    until "$@"; do
        tries=$((tries + 1))
        [ $tries -lt 600 ] || die "not in a minute: $*; but: $(tail -n 3 "$log")"
        sleep 0.1
    done
}
heard() { until_true grep -q -- "$1" "$log"; }

say "a step that takes long: a warning, an acknowledgement, an end"
log=$stage/long.log
"$samforge" train "$config" data.train="$stage/train" run.folder="$stage/long" train.batch=65536 train.masks=512 run.threads=2 \
    run.device=cpu optim.milestones='[3]' >"$log" 2>&1 &
pid=$!
heard "warn: on the CPU a step takes about .* hours.*train.batch"
! grep -q "stop requested" "$log" || die "acknowledged what nobody has asked for"
kill -INT $pid
heard "^stop requested: .* second INT"
kill -0 $pid || die "one INT ended it"
kill -INT $pid
rc=0
{ wait $pid; } 2>/dev/null || rc=$?
[ $rc = 130 ] || die "two INT ended it with $rc, not 130"

say "asked for while it is set up, held by a pipe in the place of a file: no step is begun"
log=$stage/early.log
mkfifo "$stage/pipe"
SAMFORGE_PLUGIN=$stage/pipe "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/early" run.device=auto \
    >"$log" 2>&1 &
pid=$!
# until it is the program, and catches INT
is_ready() { grep -q 'Name:.*samforge' /proc/$pid/status && grep -q 'SigCgt:.*[2367abef]$' /proc/$pid/status; }
until_true is_ready
kill -INT $pid
heard "^stop requested"
: >"$stage/pipe"
rc=0
wait $pid || rc=$?
[ $rc = 85 ] || die "ended with $rc, not 85: $(tail -n 3 "$log")"
says "stopped as asked at step 0"

say "the reader of the output is gone, as tee is after a Ctrl-C on both"
mkfifo "$stage/reader"
log=$stage/orphan.log
# shellcheck disable=SC2086
"$samforge" launch train "$config" data.train="$stage/train" run.folder="$stage/orphan" $settings train.steps=100000 \
    >"$stage/reader" 2>&1 &
pid=$!
head -n 3 <"$stage/reader" >"$log"
until_true grep -q '"step":2' "$stage/orphan/metrics.jsonl"
kill -INT $pid
rc=0
wait $pid || rc=$?
[ $rc = 85 ] || die "ended with $rc, not 85"

say "--stop-after"
rc=0
# shellcheck disable=SC2086
"$samforge" train "$config" data.train="$stage/train" run.folder="$stage/after" $settings --stop-after 7 \
    >"$stage/after.log" 2>&1 || rc=$?
[ $rc = 85 ] || die "--stop-after ended with $rc, not 85: $(tail -n 3 "$stage/after.log")"
# shellcheck disable=SC2086
train after 1 $settings
same_runs whole after
say "a spent budget is no stop that asks to be started again"
# spends CODE [argument…]: on a second of one rank, far less than the steps take
spends() {
    code=$1
    shift
    ends "$code" spends "$samforge" launch -n 1 train "$config" data.train="$stage/train" run.folder="$stage/spent" \
        optim.milestones=[40] checkpoint.every=0 run.budget_hours=0.00028 "$@"
}
step_of() { sed -n 's/.*"step": \([0-9]*\).*/\1/p' "$stage/spent/status.json"; }
spends 2 train.steps=1000000
says "budget spent: .* rank-hours at step" "a higher run.budget_hours goes on from there"
! grep -q "starting it again" "$log" || die "launch has started it again"
grep -q '"state": "out of budget"' "$stage/spent/status.json" || die "status.json: $(cat "$stage/spent/status.json")"
made=$(step_of)
for again in 1 2; do
    spends 2 train.steps=1000000
    says "budget spent: .* rank-hours at step" "a higher run.budget_hours goes on from there"
    [ "$(step_of)" -le $((made + again)) ] || die "a spent budget has paid for steps $made to $(step_of)"
done
spends 85 train.steps=1000000 run.budget_hours=1 --stop-after 1
made=$(step_of)
spends 0 train.steps="$made"
says "nothing to do"
say "losses that blow up, though finite"
# blows CODE NAME RANKS [argument…]
blows() {
    code=$1 name=$2 ranks=$3
    shift 3
    ends "$code" "$name" "$samforge" launch -n "$ranks" train "$config" data.train="$stage/train" run.folder="$stage/$name" \
        optim.milestones=[40] optim.lr=10 checkpoint.every=1 "$@"
}
blows 5 blown 1 train.steps=60
says "warn: step 2: its loss" "training diverged: 11 of the last 20 steps" "last checkpoint: step 1," "--weights"
grep -q '"state": "diverged"' "$stage/blown/status.json" || die "status.json: $(cat "$stage/blown/status.json")"
[ ! -e "$stage/blown/checkpoints/step-00000002" ] || die "what blew up was saved"
! grep -q nonfinite "$stage/blown/metrics.jsonl" || die "a loss is not finite, which is another test"
blows 85 parts 2 train.steps=60 --stop-after 6
blows 5 parts 1 train.steps=60 # what was before the stop is judged too
says "last checkpoint: step 6,"
metrics_of blown >"$stage/a.metrics"
metrics_of parts >"$stage/b.metrics"
cmp "$stage/a.metrics" "$stage/b.metrics" || die "a run that was stopped has diverged at another step"
blows 0 short 1 train.steps=8 # too few to judge
says "warn: step 2: its loss"
echo "passed"
