#!/bin/sh
# graph.sh SAMFORGE SAME_STATE SAMFORGE_EMU: steps that are recorded and launched as graphs end in the same bits as steps that are
# not, with one image and with three, a tree of sums that is not full: of one shape, so that graphs get new parameters, and of
# changing ones, with images without masks, evaluations in between, a stop and a resume. More than a graph holds is not
# recorded. On a GPU: ACCELERATOR=cuda in the environment, and SAMFORGE twice.
. "$(dirname "$0")/stage.sh"
. "$(dirname "$0")/follow.sh"
program=$3 accelerator=${ACCELERATOR:-emu}

# with GRAPH NAME BATCH [setting…]: a run into $stage/NAME-GRAPH
with() {
    graph=$1 name=$2-$1 batch=$3
    shift 3
    "$program" train "$config" data.train="$stage/train" run.folder="$stage/$name" run.device="$accelerator" run.graph="$graph" \
        train.batch="$batch" 'optim.milestones=[5]' "$@" >"$stage/$name.log" 2>&1
}

# same NAME: the state and the losses of both runs
same() {
    same_runs "$1-on" "$1-off"
    for key in train/loss/total train/grad_norm; do
        for graph in on off; do column "$1-$graph" $key >"$stage/$1.$graph"; done
        [ -s "$stage/$1.on" ] && cmp "$stage/$1.on" "$stage/$1.off" || die "$1: $key differs"
    done
}

for images in 1 3; do
    say "steps of one shape, $images a step"
    for graph in on off; do
        with $graph alike-$images $images train.steps=4 train.masks=2 train.rounds=2 train.silent_rounds=1 train.drop_path=0 ||
            die "$(tail -n 3 "$stage/$name.log")"
    done
    same alike-$images

    say "changing steps, stopped in the middle, $images a step"
    few="train.steps=5 train.rounds=3 train.silent_rounds=1 train.drop_path=0.5 data.min_area=0.12 data.val=$stage/val eval.every=2 eval.max_masks=1"
    # shellcheck disable=SC2086
    with off changing-$images $images $few || die "$(tail -n 3 "$stage/$name.log")"
    rc=0
    # shellcheck disable=SC2086
    with on changing-$images $images $few --stop-after 3 || rc=$?
    [ $rc = 85 ] || die "--stop-after ended with $rc: $(tail -n 3 "$stage/$name.log")"
    # shellcheck disable=SC2086
    with on changing-$images $images $few || die "$(tail -n 3 "$stage/$name.log")"
    same changing-$images
done
grep -q '"train/masks":0,' "$stage/changing-1-on/metrics.jsonl" || die "no step was without masks"

say "too many images, too many rounds, too many pixels"
# refused BATCH SETTINGS: as too large for a graph
refused() {
    rc=0
    # shellcheck disable=SC2086
    with on "many-$1" "$1" train.steps=0 $2 || rc=$?
    [ $rc = 2 ] && grep -q 'up to 16 images' "$stage/$name.log" || die "$1 images, $2, in a graph: $rc, $(tail -n 3 "$stage/$name.log")"
}
refused 17 "train.chunk=8 train.rounds=2"
refused 16 "train.chunk=1"
refused 9 model.image_size=4096
"$program" bench step "$config" --device "$accelerator" --count run.graph=on train.batch=16 train.chunk=5 train.rounds=11 >"$stage/count.log" 2>&1 ||
    die "176 rounds: $(tail -n 3 "$stage/count.log")"
echo "passed"
