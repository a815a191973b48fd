#!/bin/sh
# count.sh SAMFORGE_EMU: a whole step of ViT-H, counted and not run, and what docs/performance.md promises of it.
set -eu
samforge=${1:?usage: $0 SAMFORGE_EMU}
cd "$(dirname "$0")/../.."
out=$(mktemp)
trap 'rm -f "$out"' EXIT
# count BATCH: of a step of so many images
count() {
    "$samforge" bench step configs/vit_h.yaml --device emu --count --json train.batch="$1" train.masks=64 train.rounds=11 \
        train.drop_path=0 train.dropout=0 train.recompute=false >"$out"
}
number() { sed -n "s/^  \"$1\": \([0-9.e+]*\),*\$/\1/p" "$out"; }
# what the account of docs/performance.md says of it
said() { grep -q "$1" docs/performance.md || { echo "FAILED: docs/performance.md does not say $1"; exit 1; }; }
commas() { sed -e :again -e 's/^\([0-9]*[0-9]\)\([0-9]\{3\}\)/\1,\2/;tagain'; }
giga() { awk '{ printf "%.1f", $1 / 1e9 }' | commas; }
sums() { sed -n '/^ *"gradient sums": {/,/}/s/^ *"bytes": \([0-9.e+]*\),*$/\1/p' "$out"; }
# held BATCH: gradients
held() {
    "$samforge" plan configs/vit_h.yaml --gpus 1 --json run.device=emu train.batch="$1" | sed -n 's/^ *"gradients_held": \([0-9]*\),*$/\1/p'
}
# the table of steps of several images, all of each row; 1 comes last, for what is read from it below
for batch in 2 3 4 8 16 256 1; do
    count $batch
    name=$batch
    [ $batch != 256 ] || name="256, no graph"
    said "^| $name | $(number launches | commas) | $(held $batch) | $(number memory | giga) | $(sums | giga) |$"
done
said "| launches | .*.*| $(number launches | commas) |"
said "$(number decoder_bytes | awk '{ printf "%.1f GB of operands", $1 / 1e9 }')"
awk -v decoder="$(number decoder_bytes)" -v tensor="$(number attention_tensor_bytes)" \
    -v scratch="$(number attention_scratch_bytes)" -v scores="$(number attention_scores_bytes)" \
    -v launches="$(number launches)" -v flops="$(number flops_reference)" \
    -v kernels="$(sed -n '/"launches_by_kernel"/,/}/s/^    .*: \([0-9]*\),*$/\1/p' "$out" | awk '{ n += $1 } END { print n }')" '
    function check(ok, text) { print (ok ? "ok: " : "FAILED: ") text; if (!ok) bad = 1 }
    BEGIN {
        check(decoder > 25e9 && decoder <= 60e9, "decoder traffic " decoder / 1e9 " GB, at most 60")
        check(tensor > 0 && tensor < scores && scratch < scores, "attention writes " scratch / 1e6 " MB at most, not " scores / 1e6)
        check(launches > 0 && launches == kernels, launches " launches, by kernel " kernels)
        check(flops > 25.7e12 && flops < 25.8e12, "the reference model has " flops / 1e12 " TFLOP")
        exit bad
    }'
