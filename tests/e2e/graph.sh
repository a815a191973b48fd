#!/bin/sh
# graph.sh SAMFORGE SAME_STATE SAMFORGE_EMU: steps that are recorded and launched as graphs end in the same bits as steps that are
# not: of one shape, so that graphs get new parameters, and of changing ones, with images without masks, evaluations in between, a
# stop and a resume. On a GPU: ACCELERATOR=cuda in the environment, and SAMFORGE twice.
. "$(dirname "$0")/stage.sh"
. "$(dirname "$0")/follow.sh"
program=$3 accelerator=${ACCELERATOR:-emu}

# with GRAPH NAME [setting…]: a run of one image a step into $stage/NAME-GRAPH
with() {
    graph=$1 name=$2-$1
    shift 2
    "$program" train "$config" data.train="$stage/train" run.folder="$stage/$name" run.device="$accelerator" run.graph="$graph" \
        train.batch=1 'optim.milestones=[5]' "$@" >"$stage/$name.log" 2>&1
}

# same NAME: the state and the losses of both runs
same() {
    same_runs "$1-on" "$1-off"
    for key in train/loss/total train/grad_norm; do
        for graph in on off; do column "$1-$graph" $key >"$stage/$1.$graph"; done
        [ -s "$stage/$1.on" ] && cmp "$stage/$1.on" "$stage/$1.off" || die "$1: $key differs"
    done
}

say "steps of one shape"
for graph in on off; do
    with $graph alike train.steps=6 train.masks=2 train.rounds=2 train.silent_rounds=1 train.drop_path=0 || die "$(tail -n 3 "$stage/$name.log")"
done
same alike

say "changing steps, stopped in the middle"
few="train.steps=5 train.rounds=3 train.silent_rounds=1 train.drop_path=0.5 data.min_area=0.12 data.val=$stage/val eval.every=2 eval.max_masks=1"
# shellcheck disable=SC2086
with off changing $few || die "$(tail -n 3 "$stage/$name.log")"
rc=0
# shellcheck disable=SC2086
with on changing $few --stop-after 3 || rc=$?
[ $rc = 85 ] || die "--stop-after ended with $rc: $(tail -n 3 "$stage/$name.log")"
# shellcheck disable=SC2086
with on changing $few || die "$(tail -n 3 "$stage/$name.log")"
same changing
grep -q '"train/masks":0,' "$stage/changing-on/metrics.jsonl" || die "no step was without masks"
echo "passed"
