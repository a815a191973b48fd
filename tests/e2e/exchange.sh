#!/bin/sh
# exchange.sh SAMFORGE SAME_STATE SAMFORGE_EMU: several ranks whose devices exchange their gradients end in the same bits as one rank:
# recorded and not, with either of a device's queues ahead, with images without masks, and where one rank's loss is not finite;
# stopped on three ranks, resumed on two; and a bad record that one rank meets ends all of them with its code. On GPUs, of
# which two are needed: ACCELERATOR=cuda in the environment, and SAMFORGE twice.
. "$(dirname "$0")/stage.sh"
has_ranks || {
    echo "skipped: no mpirun, or a program without MPI"
    exit 77
}
program=$3 accelerator=${ACCELERATOR:-emu} most=3
if [ "$accelerator" = cuda ]; then
    most=$(nvidia-smi -L 2>/dev/null | grep -c '^GPU')
    [ "$most" -ge 2 ] || {
        echo "skipped: two GPUs are needed, here are $most"
        exit 77
    }
    [ "$most" -le 3 ] || most=3
fi
spoil=$(dirname "$same_state")/spoil

# on NAME RANKS [setting…]: a run into $stage/NAME; its exit code is $rc
on() {
    name=$1 ranks=$2 rc=0
    shift 2
    "$program" launch --restarts 0 -n "$ranks" train "$config" data.train="$stage/train" run.folder="$stage/$name" \
        run.device="$accelerator" 'optim.milestones=[4]' "$@" >"$stage/$name.log" 2>&1 || rc=$?
}
# well NAME RANKS [setting…]: and it ends well
well() {
    on "$@"
    [ $rc = 0 ] || die "$name ended with $rc: $(tail -n 5 "$stage/$name.log")"
}

# drop path, images without a mask, and a tree that is not full
steps="train.steps=4 train.batch=5 train.rounds=2 train.silent_rounds=1 train.drop_path=0.5 data.min_area=0.12 run.bucket_bytes=65536"
say "one rank and several, $steps"
# shellcheck disable=SC2086
{
    well one 1 $steps
    for ranks in $(seq 2 "$most"); do
        for graph in on off; do
            well "$graph-$ranks" "$ranks" $steps run.nccl=on run.graph=$graph
            same_runs one "$graph-$ranks"
        done
    done
    for side in first last; do
        [ "$accelerator" = emu ] || continue
        say "the side runs $side"
        export EMU_SIDE=$side
        well side-$side 2 $steps run.nccl=on
        unset EMU_SIDE
        same_runs one side-$side
    done
    say "and with sums on the hosts"
    well host 2 $steps run.nccl=off
    same_runs one host

    say "stopped on $most ranks, resumed on two"
    on moved "$most" $steps run.nccl=on --stop-after 2
    [ $rc = 85 ] || die "--stop-after ended with $rc: $(tail -n 3 "$stage/moved.log")"
    well moved 2 $steps run.nccl=on
    same_runs one moved
}

say "losses that are not finite on one of the ranks"
well start 1 train.steps=0
# a box's corner as large as a float can be: finite itself, and infinite in the first product or norm
"$spoil" "$stage/start" "$stage/spoiled.safetensors" prompt_encoder.point_embeddings.2.weight 3e38 || die "spoil"
bad="train.steps=5 train.batch=2 train.masks=1 train.box_share=0.25 optim.bad_steps=5 train.rounds=1 train.silent_rounds=0"
for ranks in 1 2; do
    # shellcheck disable=SC2086
    well "bad-$ranks" $ranks $bad --weights "$stage/spoiled.safetensors"
done
skipped=$(grep -c nonfinite "$stage/bad-1/metrics.jsonl" || true)
[ "$skipped" -gt 0 ] && [ "$skipped" -lt 5 ] || die "$skipped of 5 steps are not finite: this tests too little"
same_runs bad-1 bad-2

say "what cannot be"
ends 2 shared "$program" train "$config" data.train="$stage/train" run.folder="$stage/no" run.device="$accelerator" run.nccl=on run.share_gpu=true
says "run.nccl=on with run.share_gpu=true"
ends 2 host-nccl "$program" train "$config" data.train="$stage/train" run.folder="$stage/no" run.device=cpu run.nccl=on
says "device cpu exchanges no messages"

say "a bad record on one of the ranks"
cp -r "$stage/train" "$stage/torn"
shard=$(find "$stage/torn" -name '*.h5' | sort | tail -n 1)
size=$(wc -c <"$shard")
dd if=/dev/zero of="$shard" bs=1 seek=$((size / 2)) count=$((size / 4)) conv=notrunc status=none
# shellcheck disable=SC2086
on torn 2 $steps train.steps=40 train.rounds=1 train.silent_rounds=0 train.masks=1 run.nccl=on data.train="$stage/torn"
[ $rc = 4 ] || die "a bad record ended the run with $rc, not 4: $(tail -n 5 "$stage/torn.log")"
[ "$(grep -c 'error: data or checkpoint corrupt' "$stage/torn.log")" = 1 ] || die "said not once: $(tail -n 5 "$stage/torn.log")"
! grep -q 'stop requested' "$stage/torn.log" || die "nobody asked for a stop: $(tail -n 5 "$stage/torn.log")"
echo "passed"
