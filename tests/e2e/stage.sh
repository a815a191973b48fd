# What every end-to-end test begins with: . "$(dirname "$0")/stage.sh" SAMFORGE SAME_STATE
# Gives $samforge, $config, the shards $stage/train and $stage/val, and the functions below. Everything
# lies in $stage, which goes when the script ends well and is kept for a look when it does not.
set -eu
samforge=$1 same_state=$2
config=$(cd "$(dirname "$0")" && pwd)/small.yaml
for program in "$samforge" "$same_state"; do
    [ -x "$program" ] || {
        echo "usage: $0 SAMFORGE SAME_STATE …: the two programs, as the build made them"
        exit 2
    }
done
stage=$(mktemp -d "${TMPDIR:-/tmp}/samforge-XXXXXX")
trap 'rc=$?; [ $rc != 0 ] && [ $rc != 77 ] && echo "kept for a look: $stage" || rm -rf "$stage"' EXIT
trap 'exit 130' INT TERM

say() { echo "-- $*"; }
die() {
    echo "FAILED: $*"
    exit 1
}

# quietly NAME COMMAND…: its output only when it fails
quietly() {
    log=$stage/$1.log
    shift
    "$@" >"$log" 2>&1 || {
        rc=$?
        tail -n 30 "$log"
        die "$* ended with code $rc"
    }
}

# ends CODE NAME COMMAND…: with that exit code; its output is in $stage/NAME.log
ends() {
    wanted=$1 log=$stage/$2.log rc=0
    shift 2
    "$@" >"$log" 2>&1 || rc=$?
    [ $rc = "$wanted" ] || {
        tail -n 20 "$log"
        die "$* ended with $rc, not $wanted"
    }
}

# says TEXT…: what the last of these has said, as patterns of grep
says() {
    for text in "$@"; do grep -q -- "$text" "$log" || die "$log does not say: $text"; done
}

# needs_ranks: several ranks, or nothing to test
needs_ranks() {
    command -v mpirun >/dev/null || {
        echo "skipped: no mpirun (apt-get install openmpi-bin)"
        exit 77
    }
}

# has_ranks: whether mpirun is there and the program was built with MPI
has_ranks() {
    command -v mpirun >/dev/null && mpirun --version >/dev/null 2>&1 && ldd "$samforge" | grep -q libmpi
}

# train NAME RANKS [setting…]: into $stage/NAME
train() {
    train_name=$1 train_ranks=$2
    shift 2
    quietly "$train_name" "$samforge" launch -n "$train_ranks" train "$config" data.train="$stage/train" \
        run.folder="$stage/$train_name" "$@"
}

# The metrics that do not measure time, of run $1.
metrics_of() {
    sed -E 's/"(time|perf)\/[^"]*":[^,}]*,?//g' "$stage/$1/metrics.jsonl"
}

# same_runs A B: the same metrics, the same weights and moments at the end
same_runs() {
    metrics_of "$1" >"$stage/a.metrics"
    metrics_of "$2" >"$stage/b.metrics"
    [ -s "$stage/a.metrics" ] || die "$1 has no metrics"
    cmp -s "$stage/a.metrics" "$stage/b.metrics" || {
        diff "$stage/a.metrics" "$stage/b.metrics" | head -n 6
        die "the metrics of $1 and $2 differ"
    }
    "$same_state" "$stage/$1" "$stage/$2" || die "the checkpoints of $1 and $2 differ"
}

quietly synth "$samforge" synth "$stage/tars" --images 12 --per-tar 5 --width 96 --height 80 --objects 4
quietly pack "$samforge" pack "$stage/tars" "$stage/train"
quietly synth-val "$samforge" synth "$stage/val-tars" --images 5 --first-id 500000 --width 96 --height 80 --objects 4
quietly pack-val "$samforge" pack "$stage/val-tars" "$stage/val"
