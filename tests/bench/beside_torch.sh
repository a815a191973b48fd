#!/bin/sh
# beside_torch.sh SAMFORGE TORCH_SAM_TRAIN.py [CONFIG [PAIRS [SHARDS]]]
# The training step of samforge and of the PyTorch peer, same sizes, same threads, in turn, so that a busy machine slows
# both; prints each pair and the median ratio ours/theirs. CONFIG: tiny (default) or micro; PAIRS: 5 by default; SHARDS: packed
# images for samforge to load while it trains, as the peer has its own data; without, made-up slots.
# The peer needs Python with PyTorch, scipy and segment_anything (PYTHONPATH); it sets its own fair environment.
set -eu
samforge=${1:?usage: $0 SAMFORGE TORCH_SAM_TRAIN.py [CONFIG [PAIRS [SHARDS]]]} peer=${2:?the peer\'s script is missing}
config=${3:-tiny} pairs=${4:-5} shards=${5:-}
here=$(cd "$(dirname "$0")" && pwd)
threads=$(nproc)
python=${PYTHON:-/usr/bin/python3}
"$python" -c 'import torch, scipy, segment_anything' 2>/dev/null || {
    echo "skipped: $python lacks torch, scipy or segment_anything"
    exit 77
}

ours() {
    # spinning threads, as the peer's setting has them
    OMP_WAIT_POLICY=active OMP_NUM_THREADS=$threads "$samforge" bench step "$here/../../configs/$config.yaml" \
        --steps 10 ${shards:+--data "$shards"} --json | sed -n 's/.*"step_seconds": \([0-9.e-]*\).*/\1/p'
}

theirs() {
    "$python" "$peer" --time --config "$config" --threads "$threads" --steps 10 |
        sed -n 's/^ *step \([0-9.]*\) ms.*/\1/p' | awk '{ print $1 / 1000 }'
}

ratios=""
for pair in $(seq "$pairs"); do
    a=$(ours) b=$(theirs)
    ratio=$(awk -v a="$a" -v b="$b" 'BEGIN { printf "%.3f", a / b }')
    printf 'pair %d: samforge %.3f s, PyTorch %.3f s, ratio %s\n' "$pair" "$a" "$b" "$ratio"
    ratios="$ratios $ratio"
done
# shellcheck disable=SC2086
printf '%s\n' $ratios | sort -n | awk -v c="$config" -v t="$threads" '{ x[NR] = $1 }
    END { m = NR % 2 ? x[(NR + 1) / 2] : (x[NR / 2] + x[NR / 2 + 1]) / 2
          printf "%s, %d threads: median ratio %.3f, %.3f … %.3f over %d pairs\n", c, t, m, x[1], x[NR], NR }'
