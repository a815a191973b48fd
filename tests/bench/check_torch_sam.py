#!/usr/bin/env python3
"""check_torch_sam.py FILE.safetensors … [--bf16] [--draws N] [--tensors]: the peer's model against files made by the reference
implementation: embedding, masks, IoU and every gradient, by the error that tests/golden_bounds.h has, ‖a−b‖/‖b‖.

In f32 it fails beyond ten times what PyTorch was seen to reach. --bf16 runs it under autocast and only prints: what PyTorch's own
mixed precision does to these files. --draws: N more runs, weights changed by up to 1.2e-4 of each, so that other numbers are rounded up
and down; least, median and greatest of all runs are printed."""
import argparse
import contextlib
import json
import struct
import sys

import torch

import torch_sam

OUTPUT_BOUND, GRADIENT_BOUND, NOISE_FLOOR, NUDGE = 1e-5, 5e-5, 1e-6, 1.2e-4


def load(path):
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack("<Q", data[:8])
    types = {"F32": torch.float32, "U8": torch.uint8, "I32": torch.int32}
    header, out = json.loads(data[8:8 + n]), {}
    for name, t in header.items():
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            raw = bytearray(data[8 + n + begin:8 + n + end])
            out[name] = torch.frombuffer(raw, dtype=types[t["dtype"]]).view(t["shape"])
    return header["__metadata__"], out


def model(meta, d, draw):
    m = {k: int(v) for k, v in meta.items() if v.isdigit()}
    sam = torch_sam.Sam(dict(image=m["image_size"], patch=m["patch_size"], window=m["window_size"], dim=m["embed_dim"],
                             depth=m["depth"], encoder_heads=m["num_heads"], prompt=m["prompt_embed_dim"],
                             heads=m["decoder_heads"], mlp=m["decoder_mlp_dim"], iou=m["iou_head_hidden_dim"],
                             blocks=tuple(int(i) for i in meta["global_attn_indexes"].split(","))))
    g = torch.Generator().manual_seed(draw)
    weights = {k: d["w." + k].view(v.shape) for k, v in sam.state_dict().items()}
    if draw:
        weights = {k: w if "gaussian" in k else w * (1 + NUDGE * (2 * torch.rand(w.shape, generator=g) - 1))
                   for k, w in weights.items()}
    sam.load_state_dict(weights)
    return sam, m["image_size"]


def prompts(d):
    """Points, then a box's corners, or a padding point where there is no box."""
    boxes, n = d.get("in.boxes"), len(d["gt.masks"])
    points = [d["in.point_coords"]] if "in.point_coords" in d else []
    labels = [d["in.point_labels"].long()] if points else []
    points.append(torch.zeros(n, 1, 2) if boxes is None else boxes.view(n, 2, 2))
    labels.append(torch.full((n, 1), -1) if boxes is None else torch.tensor([[2, 3]]).expand(n, 2))
    return torch.cat(points, 1), torch.cat(labels, 1), d.get("in.mask_input")


def frame(d, size):
    image = d["in.image"]
    mean, deviation = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    if image.abs().max() > 20:  # levels, not yet normalized
        image = (image - mean[:, None, None]) / deviation[:, None, None]
    full = torch.zeros(1, 3, size, size)
    full[0, :, :image.shape[1], :image.shape[2]] = image
    return full


def errors(meta, d, route, bf16, draw):
    """Name → ‖a−b‖/‖b‖ of outputs, of gradients that are more than rounding, and of the gradient as a whole."""
    sam, size = model(meta, d, draw)
    sam.route(route)
    with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
        embedding = sam.image_encoder(frame(d, size))
        logits, iou = sam.decode(embedding, *prompts(d), None)
    one = torch.arange(len(logits)), d["loss.selected"].long()  # of the four, the one the file's gradient is of
    total = torch_sam.losses(logits[one][:, None], iou[one][:, None], d["gt.masks"].float())[0] / len(logits)
    total.backward()
    out = {"out.image_embeddings": embedding, "out.low_res_masks": logits, "out.iou_predictions": iou,
           "loss.total": total}
    out |= {"grad." + k: p.grad for k, p in sam.named_parameters() if p.grad is not None}
    pairs = {k: (v.detach().double().flatten(), d[k].double().flatten()) for k, v in out.items()}
    off = {k: (a - b).norm().item() for k, (a, b) in pairs.items()}
    size_of = {k: b.norm().item() for k, (_, b) in pairs.items()}
    whole = sum(v ** 2 for k, v in size_of.items() if k.startswith("grad.")) ** 0.5
    result = {k: off[k] / size_of[k] for k in pairs if not k.startswith("grad.") or size_of[k] > NOISE_FLOOR * whole}
    result["grad, the whole"] = sum(v ** 2 for k, v in off.items() if k.startswith("grad.")) ** 0.5 / whole
    return result


def show(title, runs):
    def row(name, values):
        values = sorted(values)
        print(f"  {name:24} {values[0]:.2e} … {values[len(values) // 2]:.2e} … {values[-1]:.2e}")

    print(title)
    for part, prefix in (("worst output", "out."), ("worst single gradient", "grad.")):
        row(part, [max(v for k, v in r.items() if k.startswith(prefix)) for r in runs])
    row("the whole gradient", [r["grad, the whole"] for r in runs])


def main():
    p = argparse.ArgumentParser()
    p.add_argument("files", nargs="+")
    p.add_argument("--bf16", action="store_true")
    p.add_argument("--draws", type=int, default=0)
    p.add_argument("--tensors", action="store_true")
    o, bad = p.parse_args(), 0
    for path in o.files:
        meta, d = load(path)
        for route in ("math", "efficient") if hasattr(torch.nn.functional, "scaled_dot_product_attention") else ("math",):
            runs = [errors(meta, d, route, o.bf16, draw) for draw in range(o.draws + 1)]
            show(f"{path}, {route}, {'bf16' if o.bf16 else 'f32'}: least, median, greatest of {len(runs)}", runs)
            for k, v in runs[0].items():
                bound = GRADIENT_BOUND if k.startswith("grad") else OUTPUT_BOUND
                if o.tensors:
                    print(f"  {k:72} {v:.3e}")
                if not o.bf16 and not v <= bound:
                    bad += 1
                    print(f"FAILED: {k}: {v:.2e} > {bound:.0e}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
