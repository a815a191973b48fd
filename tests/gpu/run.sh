#!/bin/sh
# run.sh [STAGE…]: everything a GPU has to say about samforge, by one command; builds first, into build-gpu. Stages, in this
# order, all when none is named:
#
#   conform    the instruction wrappers, against what the emulator expects of a GPU
#   ops        the test of every op on the CUDA backend, and the device's choice
#   golden     the whole model against the reference implementation, in f32 and in bf16
#   train      losses and gradient norms as on the CPU, a stop and a resume to the same bits, scores as on the CPU, steps that must
#              change nothing, and the same bits with graphs and without
#   exchange   several ranks, a GPU each, exchange their gradients by NCCL: the same bits as one rank; needs two GPUs and MPI
#   sanitize   compute-sanitizer over the tests of the ops, where it is installed
#   bench      steps of vit_b, vit_l and vit_h with all masks and rounds, by phase and op, beside limits measured in the same run;
#              text and JSON in $OUT
#   beside     the same steps beside PyTorch's, where PYTHON (default python3) has PyTorch; its JSON in $OUT
#
# In the environment: PREFIX, a folder made by fetch_packages.sh where the libraries are not installed; BUILD, the build's
# folder; OUT, where results and logs go; GOLDEN, the folder of golden files; JOBS. Needs an NVIDIA GPU of compute capability
# 8.0, nvcc, CMake, a C and a C++ compiler. Ends with 77 when there is no GPU, with 1 when a stage failed.
set -u
cd "$(dirname "$0")/../.." || exit 2
nvidia-smi -L >/dev/null 2>&1 || {
    echo "skipped: no NVIDIA GPU here (nvidia-smi -L lists none)"
    exit 77
}
. tests/gpu/prefix.sh
top=$(pwd)
build=${BUILD:-$top/build-gpu}
out=${OUT:-$build/out}
jobs=${JOBS:-$(nproc)}
nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
export PATH="$(dirname "$nvcc"):$PATH"
mkdir -p "$build" "$out"
failed="" passed="" skipped=""

# stage NAME FUNCTION: runs it, its output into $out/NAME.log too
stage() {
    echo "== $1"
    $2 >"$out/$1.log" 2>&1
    rc=$?
    case $rc in
    0) passed="$passed $1" ;;
    77) skipped="$skipped $1" ;;
    *) failed="$failed $1" ;;
    esac
    tail -n 40 "$out/$1.log"
    echo "== $1 ended with $rc"
}

build_all() {
    arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
    make="Unix Makefiles"
    command -v ninja >/dev/null && make=Ninja
    cmake -S . -B "$build" -G "$make" -DWITH_EMU=OFF -DWITH_FUZZ=OFF -DCMAKE_CUDA_ARCHITECTURES="$arch-real" \
        $([ -n "${PREFIX:-}" ] && echo -DWITH_MPI=OFF) && cmake --build "$build" -j "$jobs" || return 1
    [ -e "$build/libsamforge_cuda.so" ] || {
        echo "the build made no plugin: its first lines say why"
        return 1
    }
}

conform() {
    "$nvcc" -std=c++17 -arch=native -I. tests/emu/conform.cu -o "$build/conform" && "$build/conform" >"$out/conform.out" &&
        diff "$out/conform.out" tests/emu/conform.expected
}

ops() {
    (cd "$build" && ctest -L gpu --output-on-failure --timeout 600) >"$out/ctest.log" 2>&1
    rc=$?
    cat "$out/ctest.log"
    # where nvidia-smi lists a GPU, a test that was skipped says that the plugin does not take it
    [ $rc = 0 ] && ! grep -q Skipped "$out/ctest.log" &&
        tests/e2e/device.sh "$build/samforge" "$build/tests/same_state" "$build/tests/fakes"
}

golden() {
    folder=${GOLDEN:-}
    for f in "$top/../shared/golden" "$top/shared/golden"; do
        [ -n "$folder" ] || { [ -d "$f" ] && folder=$f; }
    done
    [ -n "$folder" ] || {
        echo "skipped: no golden files; GOLDEN names their folder"
        return 77
    }
    bad=0
    for precision in f32 bf16; do
        SAMFORGE_PLUGIN=$build/libsamforge_cuda.so "$build/tests/golden" "$folder/points.safetensors" \
            "$folder/box_points.safetensors" "$folder/box_mask.safetensors" --backend cuda --precision $precision || bad=1
    done
    return $bad
}

train() {
    for precision in f32 bf16; do
        ACCELERATOR=cuda tests/e2e/emu.sh "$build/samforge" "$build/tests/same_state" "$build/samforge" 20 $precision || return 1
        tests/e2e/skips.sh "$build/samforge" "$build/tests/same_state" "$build/samforge" cuda $precision || return 1
    done
    ACCELERATOR=cuda tests/e2e/graph.sh "$build/samforge" "$build/tests/same_state" "$build/samforge"
}

exchange() {
    ACCELERATOR=cuda tests/e2e/exchange.sh "$build/samforge" "$build/tests/same_state" "$build/samforge"
}

sanitize() {
    sanitizer=$(command -v compute-sanitizer || command -v /usr/local/cuda/bin/compute-sanitizer) || {
        echo "skipped: no compute-sanitizer here"
        return 77
    }
    export SAMFORGE_PLUGIN="$build/libsamforge_cuda.so"
    bad=0
    for tool in memcheck racecheck synccheck; do
        for op in layernorm linear mask_loss optimizer prompt residual slice; do
            echo "-- $tool test_$op"
            timeout 300 "$sanitizer" --tool $tool --error-exitcode 9 "$build/tests/test_$op" cuda >"$out/sanitize.$tool.$op" 2>&1 ||
                { bad=1; tail -n 15 "$out/sanitize.$tool.$op"; }
        done
    done
    return $bad
}

# The recipe of the paper: 64 masks of an image, 11 rounds; one image, as a rank of 256 has it. No drop path and no dropout, as
# on the other side of `beside`. As configured, all masks at once and the step as one graph; without the graph; and in chunks
# of 8 masks, with more than five times the launches.
bench() {
    bad=0
    for model in vit_b vit_l vit_h; do
        for way in "graph 64 on" "plain 64 off" "chunks 8 on"; do
            # shellcheck disable=SC2086
            set -- $way
            for form in "" --json; do
                # shellcheck disable=SC2086
                "$build/samforge" bench ops configs/$model.yaml --steps 5 --device cuda $form train.batch=1 train.masks=64 \
                    train.rounds=11 train.chunk=$2 run.graph=$3 train.drop_path=0 train.dropout=0 train.recompute=false \
                    >"$out/bench_${model}_$1${form:+.json}" || bad=1
            done
            cat "$out/bench_${model}_$1"
        done
        nvidia-smi --query-gpu=name,memory.total,clocks.sm --format=csv,noheader
    done
    return $bad
}

beside() {
    "${PYTHON:-python3}" tests/bench/beside_torch_gpu.py --samforge "$build/samforge" --out "$out/beside.json"
}

stage build build_all
[ -z "$failed" ] || exit 1
for name in ${*:-conform ops golden train exchange sanitize bench beside}; do
    case $name in
    conform | ops | golden | train | exchange | sanitize | bench | beside) stage "$name" "$name" ;;
    *)
        echo "no stage is called $name"
        exit 2
        ;;
    esac
done
echo "passed:${passed:- none}; skipped:${skipped:- none}; failed:${failed:- none}"
[ -z "$failed" ]
