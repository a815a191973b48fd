#!/bin/sh
# one_image.sh SAMFORGE SAME_STATE: a small model that sees one image again and again learns it: IoU of its
# most confident mask after one click above .95. About a minute on two cores.
. "$(dirname "$0")/stage.sh"
quietly one "$samforge" synth "$stage/one-tars" --images 1 --seed 5
quietly one-pack "$samforge" pack "$stage/one-tars" "$stage/one"
quietly one-train "$samforge" train "$(dirname "$0")/../../configs/micro.yaml" data.train="$stage/one" \
    run.folder="$stage/one-run" model.image_size=256 train.batch=1 train.steps=800 'optim.milestones=[533,770]' \
    data.min_area=0.02 optim.weight_decay=0 optim.clip=1 optim.lr=1e-3 loss.resolution=full loss.iou_all=true
quietly one-eval "$samforge" eval "$stage/one-run" "$stage/one" --clicks 1 --json
score=$(sed -n '/"model"/,/}/s/.*"click_1": \([0-9.]*\).*/\1/p' "$stage/one-eval.log")
say "1-click IoU $score"
awk -v x="$score" 'BEGIN { exit !(x > 0.95) }' || die "1-click IoU $score, .95 wanted"
echo "passed"
