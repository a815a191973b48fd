"""SAM and a training step of it in plain PyTorch, as the published code computes them: what samforge is timed beside.

Names and shapes of parameters are those of the official state dict. Attention of the image encoder goes one of these routes:
  math       scores, bias and softmax written out
  efficient  scaled_dot_product_attention, pinned to its memory-efficient kernel, relative positions as a mask in the
             dtype of q: other kernels give no gradient for the mask, or a wrong one
  flex       flex_attention with the relative positions in its score function
"""
import contextlib
import math

import torch
import torch.nn.functional as F
from torch import nn

try:
    from torch.nn.attention import SDPBackend, sdpa_kernel
except ImportError:  # before PyTorch 2.3
    sdpa_kernel = None
try:
    from torch.nn.attention.flex_attention import flex_attention
except ImportError:  # before PyTorch 2.5
    flex_attention = None

PAPER = dict(image=1024, patch=16, window=14, prompt=256, heads=8, mlp=2048, iou=256, masks=64, rounds=11, silent=2)
SIZES = {
    "vit_b": dict(PAPER, dim=768, depth=12, encoder_heads=12, blocks=(2, 5, 8, 11), parameters=93735472),
    "vit_l": dict(PAPER, dim=1024, depth=24, encoder_heads=16, blocks=(5, 11, 17, 23), parameters=312342832),
    "vit_h": dict(PAPER, dim=1280, depth=32, encoder_heads=16, blocks=(7, 15, 23, 31), parameters=641090608),
    "tiny": dict(image=256, patch=16, window=7, prompt=128, heads=8, mlp=512, iou=128, masks=16, rounds=4, silent=1,
                 dim=192, depth=6, encoder_heads=3, blocks=(2, 5), parameters=None),
}


def tables(length, rel):
    """(2L−1,D) → (L,L,D): row q − k + L − 1."""
    at = torch.arange(length, device=rel.device)
    return rel[at[:, None] - at[None, :] + length - 1]


def relative(q, rel_h, rel_w, side):
    """q (B,A,N,D), unscaled → (B,A,N,side) twice: what each query adds by the key's row, and by its column."""
    r = q.unflatten(2, (side, side))
    h = torch.einsum("bnhwc,hkc->bnhwk", r, tables(side, rel_h).to(q.dtype))
    w = torch.einsum("bnhwc,wkc->bnhwk", r, tables(side, rel_w).to(q.dtype))
    return h.flatten(2, 3), w.flatten(2, 3)


flex_compiled = None


def attend(q, k, v, rel_h, rel_w, side, route):
    """softmax(q kᵀ/√D + relative positions) v; (B,A,N,D)."""
    global flex_compiled
    h, w = relative(q, rel_h, rel_w, side)
    if route == "flex":
        if flex_compiled is None:
            flex_compiled = torch.compile(flex_attention) if q.is_cuda else flex_attention

        def score(s, b, a, i, j):
            return s + h[b, a, i, j // side] + w[b, a, i, j % side]

        return flex_compiled(q, k, v, score_mod=score)
    bias = (h[..., :, None] + w[..., None, :]).flatten(3)
    if route == "efficient":
        pinned = sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION) if q.is_cuda else contextlib.nullcontext()
        with pinned:
            return F.scaled_dot_product_attention(q, k, v, attn_mask=bias.to(q.dtype))
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1) + bias
    return scores.softmax(-1).to(v.dtype) @ v


class Attention(nn.Module):
    def __init__(self, dim, heads, side):
        super().__init__()
        self.heads, self.route = heads, "math"
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * side - 1, dim // heads))

    def forward(self, x):
        b, side, _, c = x.shape
        q, k, v = self.qkv(x).view(b, side * side, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        y = attend(q, k, v, self.rel_pos_h, self.rel_pos_w, side, self.route)
        return self.proj(y.transpose(1, 2).reshape(b, side, side, c))


class Mlp(nn.Module):
    def __init__(self, dim, hidden, act):
        super().__init__()
        self.lin1, self.lin2, self.act = nn.Linear(dim, hidden), nn.Linear(hidden, dim), act

    def forward(self, x):
        return self.lin2(self.act(self.lin1(x)))


class Block(nn.Module):
    def __init__(self, z, window):
        super().__init__()
        dim = z["dim"]
        self.window = window
        self.norm1, self.norm2 = nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, z["encoder_heads"], window or z["image"] // z["patch"])
        self.mlp = Mlp(dim, 4 * dim, F.gelu)

    def forward(self, x):
        y, w, (b, n, _, c) = self.norm1(x), self.window, x.shape
        if w:
            pad = -n % w
            m = (n + pad) // w
            y = F.pad(y, (0, 0, 0, pad, 0, pad))
            y = y.view(b, m, w, m, w, c).transpose(2, 3).reshape(b * m * m, w, w, c)
        y = self.attn(y)
        if w:
            y = y.view(b, m, m, w, w, c).transpose(2, 3).reshape(b, m * w, m * w, c)[:, :n, :n]
        x = x + y
        return x + self.mlp(self.norm2(x))


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of (B,C,H,W)."""

    def __init__(self, channels):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(channels)), nn.Parameter(torch.zeros(channels))

    def forward(self, x):
        x = F.layer_norm(x.permute(0, 2, 3, 1), self.weight.shape, self.weight, self.bias, 1e-6)
        return x.permute(0, 3, 1, 2)


class Encoder(nn.Module):
    def __init__(self, z):
        super().__init__()
        n, dim, out = z["image"] // z["patch"], z["dim"], z["prompt"]
        self.pos_embed = nn.Parameter(torch.zeros(1, n, n, dim))
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, dim, z["patch"], z["patch"])})
        self.blocks = nn.ModuleList(Block(z, 0 if i in z["blocks"] else z["window"]) for i in range(z["depth"]))
        self.neck = nn.Sequential(nn.Conv2d(dim, out, 1, bias=False), ChannelNorm(out),
                                  nn.Conv2d(out, out, 3, padding=1, bias=False), ChannelNorm(out))

    def forward(self, image):
        x = self.patch_embed["proj"](image).permute(0, 2, 3, 1) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.permute(0, 3, 1, 2))


class Prompts(nn.Module):
    def __init__(self, z):
        super().__init__()
        c = z["prompt"]
        self.image = z["image"]
        self.pe_layer = nn.Module()
        self.pe_layer.register_buffer("positional_encoding_gaussian_matrix", torch.randn(2, c // 2))
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, c) for _ in range(4))
        self.not_a_point_embed, self.no_mask_embed = nn.Embedding(1, c), nn.Embedding(1, c)
        self.mask_downscaling = nn.Sequential(nn.Conv2d(1, 4, 2, 2), ChannelNorm(4), nn.GELU(), nn.Conv2d(4, 16, 2, 2),
                                              ChannelNorm(16), nn.GELU(), nn.Conv2d(16, c, 1))

    def encode(self, unit):
        """Coordinates in [0,1] → Fourier features, in f32."""
        with torch.autocast(unit.device.type, enabled=False):
            x = 2 * math.pi * ((2 * unit - 1) @ self.pe_layer.positional_encoding_gaussian_matrix)
            return torch.cat([x.sin(), x.cos()], -1)

    def grid(self, n):
        at = (torch.arange(n, device=self.no_mask_embed.weight.device) + 0.5) / n
        return self.encode(torch.stack([at[None].expand(n, n), at[:, None].expand(n, n)], -1)).permute(2, 0, 1)

    def tokens(self, points, labels):
        """labels: −1 padding, 0 background, 1 foreground, 2 and 3 corners."""
        table = torch.cat([self.not_a_point_embed.weight, *[e.weight for e in self.point_embeddings]])
        return self.encode((points + 0.5) / self.image) * (labels >= 0)[..., None] + table[labels + 1]


class CrossAttention(nn.Module):
    def __init__(self, dim, heads, inner):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(dim, inner) for _ in range(3))
        self.out_proj = nn.Linear(inner, dim)

    def forward(self, q, k, v):
        q, k, v = (f(x).unflatten(2, (self.heads, -1)).transpose(1, 2)
                   for f, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v)))
        if hasattr(F, "scaled_dot_product_attention"):
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        return self.out_proj(y.transpose(1, 2).flatten(2))


class Layer(nn.Module):
    def __init__(self, z, first):
        super().__init__()
        c, a = z["prompt"], z["heads"]
        self.first, self.self_attn = first, CrossAttention(c, a, c)
        self.cross_attn_token_to_image = CrossAttention(c, a, c // 2)
        self.cross_attn_image_to_token = CrossAttention(c, a, c // 2)
        self.norm1, self.norm2, self.norm3, self.norm4 = (nn.LayerNorm(c) for _ in range(4))
        self.mlp = Mlp(c, z["mlp"], F.relu)

    def forward(self, t, x, t_pe, x_pe):
        if self.first:
            t = self.self_attn(t, t, t)
        else:
            t = t + self.self_attn(t + t_pe, t + t_pe, t)
        t = self.norm1(t)
        t = self.norm2(t + self.cross_attn_token_to_image(t + t_pe, x + x_pe, x))
        t = self.norm3(t + self.mlp(t))
        return t, self.norm4(x + self.cross_attn_image_to_token(x + x_pe, t + t_pe, t))


class Head(nn.Module):
    def __init__(self, dim, hidden, out):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)])

    def forward(self, x):
        return self.layers[2](F.relu(self.layers[1](F.relu(self.layers[0](x)))))


class Decoder(nn.Module):
    def __init__(self, z):
        super().__init__()
        c = z["prompt"]
        self.transformer = nn.Module()
        self.transformer.layers = nn.ModuleList(Layer(z, i == 0) for i in range(2))
        self.transformer.final_attn_token_to_image = CrossAttention(c, z["heads"], c // 2)
        self.transformer.norm_final_attn = nn.LayerNorm(c)
        self.iou_token, self.mask_tokens = nn.Embedding(1, c), nn.Embedding(4, c)
        self.output_upscaling = nn.Sequential(nn.ConvTranspose2d(c, c // 4, 2, 2), ChannelNorm(c // 4), nn.GELU(),
                                              nn.ConvTranspose2d(c // 4, c // 8, 2, 2), nn.GELU())
        self.output_hypernetworks_mlps = nn.ModuleList(Head(c, c, c // 8) for _ in range(4))
        self.iou_prediction_head = Head(c, z["iou"], 4)

    def forward(self, image, image_pe, dense, sparse, multi):
        """image (1,C,n,n), dense (M or 1,C,n,n), sparse (M,P,C) → logits (M,3 or 1,4n,4n), iou (M,3 or 1); all
        four masks where multi is None. As the published code, all four are computed."""
        m, (c, n) = len(sparse), image.shape[1:3]
        x = (image.expand(m, -1, -1, -1) + dense).flatten(2).transpose(1, 2)
        x_pe = image_pe.flatten(1).t()[None].expand(m, -1, -1)
        t_pe = torch.cat([torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(m, -1, -1), sparse], 1)
        t = t_pe
        for layer in self.transformer.layers:
            t, x = layer(t, x, t_pe, x_pe)
        t = self.transformer.norm_final_attn(
            t + self.transformer.final_attn_token_to_image(t + t_pe, x + x_pe, x))
        up = self.output_upscaling(x.transpose(1, 2).reshape(m, c, n, n))
        hyper = torch.stack([f(t[:, 1 + i]) for i, f in enumerate(self.output_hypernetworks_mlps)], 1)
        logits = (hyper @ up.flatten(2)).unflatten(2, up.shape[2:])
        use = slice(0, 4) if multi is None else slice(1, 4) if multi else slice(0, 1)
        return logits[:, use].float(), self.iou_prediction_head(t[:, 0])[:, use].float()


class Sam(nn.Module):
    def __init__(self, z):
        super().__init__()
        self.image_encoder, self.prompt_encoder, self.mask_decoder = Encoder(z), Prompts(z), Decoder(z)

    def route(self, name):
        for block in self.image_encoder.blocks:
            block.attn.route = name

    def decode(self, embedding, points, labels, mask, multi):
        p = self.prompt_encoder
        dense = p.no_mask_embed.weight[:, :, None, None] if mask is None else p.mask_downscaling(mask)
        return self.mask_decoder(embedding, p.grid(embedding.shape[2]), dense, p.tokens(points, labels), multi)


def randomize(sam, seed):
    """Weights as ViTDet draws them, and relative positions that are not zero: zeros would hide mistakes."""
    g = torch.Generator(device=next(sam.parameters()).device).manual_seed(seed)
    with torch.no_grad():
        for name, p in sam.image_encoder.named_parameters():
            if "rel_pos" in name or "pos_embed" in name or (p.ndim == 2 and name.startswith("blocks")):
                p.normal_(0, 0.02, generator=g)


def losses(logits, iou, truth):
    """Focal, dice and IoU error at the resolution of truth (M,R,R), of the best mask: Σ over masks, mean over masks later."""
    x = F.interpolate(logits, truth.shape[1:], mode="bilinear", align_corners=False)
    t = truth[:, None].expand_as(x)
    p = x.sigmoid()
    pt = p * t + (1 - p) * (1 - t)
    focal = (0.75 - 0.5 * t) * (1 - pt) ** 2 * F.binary_cross_entropy_with_logits(x, t, reduction="none")
    focal = focal.mean((2, 3))
    dice = 1 - (2 * (p * t).sum((2, 3)) + 1) / (p.sum((2, 3)) + t.sum((2, 3)) + 1)
    on = x.detach() > 0
    inter = (on & (t > 0)).sum((2, 3))
    true = inter / (on | (t > 0)).sum((2, 3)).clamp(min=1)
    both = 20 * focal + dice
    best = both.detach().argmin(1, keepdim=True)
    return (both + (iou - true) ** 2).gather(1, best).sum(), x.detach()


def batch(z, device, seed):
    """One image of noise, ellipses as masks at the frame's resolution, and their boxes."""
    g = torch.Generator().manual_seed(seed)
    n, m = z["image"], z["masks"]
    at = torch.arange(n) + 0.5
    r = (0.03 + 0.25 * torch.rand(m, 2, generator=g)) * n
    c = r + torch.rand(m, 2, generator=g) * (n - 2 * r)
    u = ((at[None] - c[:, :1]) / r[:, :1]) ** 2
    v = ((at[None] - c[:, 1:]) / r[:, 1:]) ** 2
    truth = (u[:, None, :] + v[:, :, None] <= 1).float()
    return (torch.randn(1, 3, n, n, generator=g).to(device), truth.to(device), torch.cat([c - r, c + r], 1).to(device))


def draw(region, image):
    """A uniform pixel of each region (M,R,R): its index, and its centre in the frame."""
    flat = (torch.rand(region.shape, device=region.device) * region).flatten(1).argmax(1)
    n = region.shape[2]
    return flat, (torch.stack([flat % n, flat // n], -1) + 0.5) * (image / n) - 0.5


class Step:
    """One training step: the first prompt, corrections with the fed-back mask, which is detached, so that each round's
    backward follows at once; then the encoder's; then AdamW. encode, decode, loss: the model's, or compiled."""

    def __init__(self, sam, z, bf16):
        self.sam, self.z = sam, z
        self.device = next(sam.parameters()).device
        self.bf16 = bf16
        self.data = batch(z, self.device, 1)
        fused = {"fused": True} if self.device.type == "cuda" else {}
        self.optimizer = torch.optim.AdamW(sam.parameters(), lr=1e-5, weight_decay=0.1, **fused)
        self.variant("math", False)

    def variant(self, route, compiled):
        sam = self.sam
        sam.route(route)
        for block in sam.image_encoder.blocks:
            block.__dict__.pop("forward", None)
            if compiled:  # a compilation for windows and one for global attention serve all blocks
                block.forward = torch.compile(block.forward)
        self.decode = torch.compile(sam.decode) if compiled else sam.decode
        self.loss = torch.compile(losses) if compiled else losses

    def autocast(self):
        return torch.autocast(self.device.type, torch.bfloat16) if self.bf16 else contextlib.nullcontext()

    def first_prompt(self):
        _, truth, box = self.data
        point = draw(truth, self.z["image"])[1]
        coin = torch.rand(len(truth), 1, device=self.device) < 0.5
        points = torch.where(coin[..., None], box.view(-1, 2, 2) - 0.5, torch.stack([point, torch.zeros_like(point)], 1))
        kinds = torch.tensor([[1, -1], [2, 3]], device=self.device)
        return points, kinds[coin[:, 0].long()]

    def __call__(self, lap=lambda name: None):
        z, (image, truth, _) = self.z, self.data
        clicks = z["rounds"] - 1 - z["silent"]
        with self.autocast():
            embedding = self.sam.image_encoder(image)
        lap("encoder forward")
        leaf, mask, total = embedding.detach().float().requires_grad_(), None, 0
        points, labels = self.first_prompt()
        lap("prompts")
        for i in range(z["rounds"]):
            with self.autocast():
                logits, iou = self.decode(leaf, points, labels, mask, i == 0)
            lap("decoder forward")
            loss, full = self.loss(logits, iou, truth)
            lap("loss")
            (loss / len(truth)).backward()
            lap("decoder backward")
            total = total + loss.detach()
            row, best = torch.arange(len(truth), device=self.device), iou.detach().argmax(1)
            mask = logits.detach()[row, best][:, None]
            if i < clicks:
                wrong = (full[row, best] > 0) ^ (truth > 0)
                region = torch.where(wrong.flatten(1).any(1)[:, None, None], wrong, truth == 0)
                flat, point = draw(region, z["image"])
                label = truth.flatten(1).gather(1, flat[:, None]).long()
                points, labels = torch.cat([points, point[:, None]], 1), torch.cat([labels, label], 1)
            lap("prompts")
        embedding.backward(leaf.grad.to(embedding.dtype))
        lap("encoder backward")
        return total

    def update(self):
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
