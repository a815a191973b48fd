#!/usr/bin/env python3
"""check_torch_sam.py POINTS.safetensors: the peer's model against a file made by the reference implementation: embedding, masks,
IoU, loss, and every gradient. Relative to the greatest value of each; f32 on both sides, sums of up to 1e3 terms of 2^-24: 1e-4."""
import json
import struct
import sys

import torch

import torch_sam

TOLERANCE = 1e-4


def load(path):
    with open(path, "rb") as f:
        data = f.read()
    (n,) = struct.unpack("<Q", data[:8])
    types = {"F32": torch.float32, "U8": torch.uint8, "I32": torch.int32}
    out = {}
    for name, t in json.loads(data[8:8 + n]).items():
        if name != "__metadata__":
            begin, end = t["data_offsets"]
            raw = bytearray(data[8 + n + begin:8 + n + end])
            out[name] = torch.frombuffer(raw, dtype=types[t["dtype"]]).view(t["shape"])
    return out


def main():
    d, bad = load(sys.argv[1]), 0
    sam = torch_sam.Sam(dict(image=128, patch=16, window=3, prompt=32, heads=8, mlp=64, iou=32, dim=32, depth=4,
                             encoder_heads=2, blocks=(1, 3)))
    sam.load_state_dict({k: d["w." + k].view(v.shape) for k, v in sam.state_dict().items()})

    def hold(name, got, want):
        nonlocal bad
        distance = ((got - want.view_as(got)).abs().max() / want.abs().max().clamp(min=1e-30)).item()
        if not distance <= TOLERANCE:
            bad += 1
            print(f"FAILED: {name}: {distance:.2e}")
        return distance

    image = d["in.image"]
    mean, deviation = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    if image.abs().max() > 20:  # levels, not yet normalized
        image = (image - mean[:, None, None]) / deviation[:, None, None]
    frame = torch.zeros(1, 3, 128, 128)
    frame[0, :, :image.shape[1], :image.shape[2]] = image
    points = torch.cat([d["in.point_coords"], torch.zeros(3, 1, 2)], 1)
    labels = torch.cat([d["in.point_labels"].long(), torch.full((3, 1), -1)], 1)
    for route in ("math", "efficient") if hasattr(torch.nn.functional, "scaled_dot_product_attention") else ("math",):
        sam.route(route)
        sam.zero_grad(set_to_none=True)
        embedding = sam.image_encoder(frame)
        logits, iou = sam.decode(embedding, points, labels, None, True)
        total = torch_sam.losses(logits, iou, d["gt.masks"].float())[0] / len(points)
        total.backward()
        worst = max(hold("embedding", embedding.detach(), d["out.image_embeddings"]),
                    hold("masks", logits.detach(), d["out.low_res_masks"][:, 1:]),
                    hold("iou", iou.detach(), d["out.iou_predictions"][:, 1:]),
                    hold("loss", total.detach(), d["loss.total"]))
        gradients = [hold(k, p.grad, d["grad." + k]) for k, p in sam.named_parameters()
                     if p.grad is not None and d["grad." + k].abs().max() > 1e-6]
        print(f"{route}: outputs within {worst:.1e}, {len(gradients)} gradients within {max(gradients):.1e}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
