#!/bin/sh
# kills.sh SAMFORGE SAME_STATE [N]: a run on two ranks is killed (SIGKILL) N times, at moments from before
# MPI is up to many steps in, and started again each time. It must end with the bits of an undisturbed
# one. When it ends before N kills, it is compared, and another one begins.
. "$(dirname "$0")/stage.sh"
needs_ranks
kills=${3:-5}
settings="train.steps=120 optim.milestones=[60] checkpoint.every=3"
# shellcheck disable=SC2086
train whole 1 $settings

# children PID: of its main thread, as words; nothing when there is no such process
children() {
    cat "/proc/$1/task/$1/children" 2>/dev/null || true
}

compare() {
    same_runs whole killed
    left=$(find "$stage/killed/checkpoints" -mindepth 1 -name '.*' | head -n 3)
    [ -z "$left" ] || die "left behind by killed saves: $left"
}

i=0 killed=0 ended=0
while [ $killed -lt "$kills" ]; do
    [ $i -lt $((4 * kills + 20)) ] || die "in $i starts, only $killed could be killed"
    # shellcheck disable=SC2086
    "$samforge" launch -n 2 --restarts 0 train "$config" data.train="$stage/train" \
        run.folder="$stage/killed" $settings >"$stage/killed-$((i % 8)).log" 2>&1 &
    pid=$!
    sleep "$(awk -v i=$i 'BEGIN { x = i * 0.618034; printf "%.3f", 0.2 + 2 * (x - int(x)) }')"
    # in turn: one rank, all ranks, the launcher, which must leave nothing running
    # shellcheck disable=SC2046
    ranks=$(for mpirun in $(children $pid); do children "$mpirun"; done)
    case $((i % 3)) in
    0) victims=${ranks%% *} ;;
    1) victims=$ranks ;;
    2) victims=$pid ;;
    esac
    # shellcheck disable=SC2086
    if [ -n "$victims" ] && kill -9 $victims 2>/dev/null; then killed=$((killed + 1)); fi
    rc=0
    wait $pid 2>/dev/null || rc=$?
    i=$((i + 1))
    [ $rc = 0 ] || continue
    ended=$((ended + 1))
    compare
    rm -rf "$stage/killed"
done
say "$killed kills in $i starts, $ended runs ended meanwhile; the last kill at step $(sed -n 's/.*"step": \([0-9]*\).*/\1/p' "$stage/killed/status.json" 2>/dev/null)"
# a killed launcher's ranks go by themselves, within seconds
tries=0
until quietly_again=$("$samforge" launch -n 2 train "$config" data.train="$stage/train" \
    run.folder="$stage/killed" $settings 2>&1); do
    tries=$((tries + 1))
    [ $tries -lt 10 ] || die "it does not start again: $quietly_again"
    sleep 1
done
compare
echo "passed"
