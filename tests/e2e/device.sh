#!/bin/sh
# device.sh SAMFORGE SAME_STATE FAKES: what train, eval and bench do with each device they are asked for, where the GPU's
# module is there or not, finds a GPU or not. FAKES: the folder of modules that tests/kernels/fake_plugin.c makes.
. "$(dirname "$0")/stage.sh"
fakes=$3
mark=$stage/opened
export FAKE_PLUGIN_MARK="$mark"

# with_mark CODE NAME COMMAND…: as ends, and the module leaves a mark when it is opened
with_mark() {
    rm -f "$mark"
    ends "$@"
}
opened() { [ -e "$mark" ] || die "the module was not opened: $log"; }
untouched() { [ ! -e "$mark" ] || die "the module was opened: $log"; }

# in_run NAME [setting…]: arguments of a training of one step
in_run() {
    name=$1
    shift
    set -- "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/$name" train.steps=1 optim.milestones='[3]' "$@"
    with_mark "$code" "$name" "$@"
}

export SAMFORGE_PLUGIN="$fakes/libfake_plugin_0.so"
code=0
in_run auto run.device=auto
says "device: the CPU, since the fake has no GPU"
opened
grep -q 'device: *"*cpu' "$stage/auto/config.resolved.yaml" || die "what auto meant was not written down"
says "on 1 rank of" "in f32"
in_run auto run.device=cpu run.precision=f32 run.absorb=off # what auto meant
says "resumed at step 1"
code=2
in_run auto run.device=ref
says "differs in run.device cpu → ref" "add to the command run.device=cpu;"
code=0
in_run cpu run.device=cpu
untouched
in_run ref run.device=ref
untouched
code=2
in_run ref run.device=auto # on another node nobody has changed anything, and it is another device all the same
says "differs in run.device ref → cpu" "add to the command run.device=ref;"
code=3
in_run cuda run.device=cuda
says "device or dependency not available: device cuda: the fake has no GPU"
in_run emu run.device=emu # not in this program
says samforge_emu
untouched

with_mark 0 eval-auto "$samforge" eval "$stage/cpu" "$stage/val" --max-images 1 --max-masks 1 --clicks 1
opened
with_mark 0 eval-cpu "$samforge" eval "$stage/cpu" "$stage/val" --max-images 1 --max-masks 1 --clicks 1 --device cpu
untouched
with_mark 3 eval-cuda "$samforge" eval "$stage/cpu" "$stage/val" --device cuda
says "device cuda: the fake has no GPU"
with_mark 2 eval-gpu "$samforge" eval "$stage/cpu" "$stage/val" --device gpu
with_mark 0 bench-cpu "$samforge" bench step "$config" --steps 1 run.device=cpu
untouched
with_mark 3 bench-cuda "$samforge" bench step "$config" --steps 1 run.device=cuda
says "device cuda: the fake has no GPU"

# counting asks the module for shapes alone, and says whose step it counted
with_mark 0 count-auto "$samforge" bench step "$config" --count --json run.device=auto
says '"device": "cpu"' '"precision": "F32"'
with_mark 3 count-cuda "$samforge" bench step "$config" --count --device cuda --json # the fake has no kernels
says "device cuda has no linear_fwd"
opened

SAMFORGE_PLUGIN=$stage/nothing
with_mark 3 count-missing "$samforge" bench step "$config" --count --device cuda --json
says "device cuda" "cpu is counted everywhere"
in_run missing run.device=cuda
says "cannot be read"
SAMFORGE_PLUGIN=$stage/cut.so # a copy that is not done
for bytes in 8 100 4096 "$(($(wc -c <"$fakes/libfake_plugin_0.so") / 2))"; do
    head -c "$bytes" "$fakes/libfake_plugin_0.so" >"$SAMFORGE_PLUGIN"
    in_run cut run.device=cuda
    says "cut short"
done
SAMFORGE_PLUGIN=$fakes/libfake_plugin_2.so
in_run other-build run.device=cuda
says "another build"
SAMFORGE_PLUGIN=$fakes/libfake_plugin_4.so
in_run no-kernels run.device=cuda
says "has no linear_fwd"
if has_ranks; then
    SAMFORGE_PLUGIN=$fakes/libfake_plugin_5.so
    with_mark 2 shared "$samforge" launch -n 2 train "$config" data.train="$stage/train" run.folder="$stage/shared" run.device=cuda
    says "ranks 0 and 1 are on the same GPU"
fi

unset SAMFORGE_PLUGIN # what was built here
mkdir "$stage/alone"
cp "$samforge" "$stage/alone"
ends 0 alone "$stage/alone/samforge" bench step "$config" --steps 1 run.device=auto
says "device: the CPU (built without CUDA)$"
ends 3 alone "$stage/alone/samforge" bench step "$config" --steps 1 run.device=cuda
says "build it where CMake finds CUDA"
if "$samforge" train "$config" data.train="$stage/train" run.folder="$stage/own" train.steps=1 optim.milestones='[3]' \
    run.device=cuda >"$stage/own.log" 2>&1; then
    say "there is a GPU: $(grep -o 'device: .*' "$stage/own.log")"
else
    rc=$?
    [ $rc = 3 ] || die "run.device=cuda ended with $rc: $(tail -n 3 "$stage/own.log")"
    say "$(grep -o 'device cuda: .*' "$stage/own.log")"
fi
rc=0
"$samforge" bench step "$config" --count --device cuda --json >"$stage/count.log" 2>&1 || rc=$?
[ $rc = 3 ] || grep -q '"device": "cuda"' "$stage/count.log" || die "bench --count --device cuda ended with $rc: $(tail -n 3 "$stage/count.log")"
# a plan asks for shapes alone, whatever is there
with_mark 0 plan "$samforge" plan "$config" run.device=cuda run.precision=auto
echo "passed"
