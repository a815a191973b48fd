#!/usr/bin/env python3
"""samforge's training step beside PyTorch's, on one GPU, by one command and in under ten minutes:

    tests/bench/beside_torch_gpu.py --out ratios.json

Four take turns, A B C D A B C D …, so that clocks and neighbours touch all alike: PyTorch eager, PyTorch compiled with attention
pinned to the memory-efficient kernel, PyTorch compiled with FlexAttention, samforge. All in bf16 (autocast there), one image, the
paper's 64 masks and 11 rounds, the same shapes, no drop path, no dropout. Before anything is timed every route of attention is held
to the written-out one in f32, gradients of relative positions included; a route that fails is not timed, and said.

samforge is built first, into --build, by CMake; --samforge names a program that is there already. Where its libraries are
missing, tests/gpu/fetch_packages.sh makes them a folder; PREFIX in the environment names one that was made elsewhere. What is
absent (a GPU, torch.compile, FlexAttention, nvcc, the libraries) is said and left out. Needs PyTorch, 2.6 or later for all of it.
--device cpu --model tiny tries the script itself without a GPU: its times mean nothing.
"""
import argparse
import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
began = time.monotonic()


def say(*words):
    print(f"[{time.monotonic() - began:5.0f} s]", *words, flush=True)


if importlib.util.find_spec("torch") is None:
    print(f"skipped: {sys.executable} has no PyTorch")
    sys.exit(77)
import torch  # noqa: E402

import torch_sam  # noqa: E402

VARIANTS = {  # route of attention, compiled
    "eager": ("math", False),
    "compiled, efficient": ("efficient", True),
    "compiled, flex": ("flex", True),
}
PHASES = ["encoder forward", "prompts", "decoder forward", "loss", "decoder backward", "encoder backward", "optimizer"]
DECODER = ["prompts", "decoder forward", "loss", "decoder backward"]
# Relative L2 distance from f32 on the same inputs. bf16 rounds to 2^-8, half of it on average, and an output goes through q, k, v,
# the bias, the weights and itself: six roundings, √6 · 2^-9 = 0.005 if independent; the bias adds its own absolute 2^-9 of about 3
# to scores. Four times both together. f32: 2^-24 over sums of 1e3 terms and an exponential.
TOLERANCE = {torch.bfloat16: 0.04, torch.float32: 1e-4}


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize()


# ---- gates -----------------------------------------------------------------------------------------
def attention_inputs(z, window, device, dtype, grad=True):
    side = window or z["image"] // z["patch"]
    n = ((z["image"] // z["patch"] + side - 1) // side) ** 2
    heads, width = z["encoder_heads"], z["dim"] // z["encoder_heads"]
    g = torch.Generator().manual_seed(side)
    qkv = [torch.randn(n, heads, side * side, width, generator=g).to(device, dtype).requires_grad_(grad) for _ in range(3)]
    rel = [torch.randn(2 * side - 1, width, generator=g).mul(0.2).to(device).requires_grad_(grad) for _ in range(2)]
    return qkv, rel, side


def attention_results(z, window, device, dtype, route):
    """Output and all gradients, on inputs that are the same bf16 numbers whatever dtype is computed in."""
    rounded = torch.bfloat16 if device.type == "cuda" else torch.float32
    (q, k, v), rel, side = attention_inputs(z, window, device, rounded, grad=False)
    q, k, v = (x.to(dtype).requires_grad_() for x in (q, k, v))
    rel = [x.to(rounded).to(torch.float32).requires_grad_() for x in rel]
    y = torch_sam.attend(q, k, v, *rel, side, route)
    y.backward(torch.cos(torch.arange(y.numel(), device=device, dtype=torch.float32)).view_as(y).to(rounded).to(y.dtype))
    return [y.detach()] + [x.grad for x in (q, k, v, *rel)]


def route_fails(z, device, route):
    """Why a route may not be timed, or None. The trap: kernels without a gradient for the mask leave rel_pos.grad empty."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    for window in (0, z["window"]):
        try:
            got = attention_results(z, window, device, dtype, route)
        except Exception as e:  # a kernel that is not there, a shape it does not take
            return f"{type(e).__name__}: {str(e).splitlines()[0][:200] if str(e) else ''}"
        want = attention_results(z, window, device, torch.float32, "math")
        for name, a, b in zip(("y", "dq", "dk", "dv", "rel_pos_h.grad", "rel_pos_w.grad"), got, want):
            if a is None:
                return f"{name} is missing (window {window})"
            a, b = a.float(), b.float()
            if not torch.isfinite(a).all() or a.abs().max() == 0:
                return f"{name} is not finite, or zero (window {window})"
            distance = ((a - b).norm() / b.norm()).item()
            if not distance <= TOLERANCE[dtype]:
                return f"{name} is {distance:.3g} from f32 (window {window}), {TOLERANCE[dtype]} allowed"
    return None


def step_fails(step):
    """Why a whole step may not be timed, or None."""
    step.sam.zero_grad(set_to_none=True)
    total = step()
    bad = None
    if not torch.isfinite(total):
        bad = f"the loss is {total.item()}"
    for name, p in step.sam.named_parameters():
        if bad:
            break
        if p.grad is None:
            if not name.startswith("prompt_encoder.point_embeddings"):  # of a kind that no prompt had
                bad = f"{name} has no gradient"
        elif not torch.isfinite(p.grad).all():
            bad = f"the gradient of {name} is not finite"
        elif "rel_pos" in name and p.grad.abs().max() == 0:
            bad = f"the gradient of {name} is zero"
    step.sam.zero_grad(set_to_none=True)
    return bad


# ---- PyTorch's times ---------------------------------------------------------------------------------
def time_step(step, steps):
    times = []
    for _ in range(steps):
        synchronize(step.device)
        start = time.perf_counter()
        step()
        step.update()
        synchronize(step.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def time_phases(step):
    phases, last = dict.fromkeys(PHASES, 0.0), [time.perf_counter()]

    def lap(name):
        synchronize(step.device)
        now = time.perf_counter()
        phases[name] += now - last[0]
        last[0] = now

    synchronize(step.device)
    last[0] = time.perf_counter()
    step(lap)
    step.update()
    lap("optimizer")
    return phases


def time_attention(z, device, route, repeats):
    """Seconds of all encoder blocks' attention of a step, forward and backward, relative positions included."""
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    total = 0.0
    for window, count in ((0, len(z["blocks"])), (z["window"], z["depth"] - len(z["blocks"]))):
        (q, k, v), rel, side = attention_inputs(z, window, device, dtype)
        dy = torch.randn_like(q)
        times = []
        for _ in range(repeats + 2):
            for x in (q, k, v, *rel):
                x.grad = None
            synchronize(device)
            start = time.perf_counter()
            torch_sam.attend(q, k, v, *rel, side, route).backward(dy)
            synchronize(device)
            times.append(time.perf_counter() - start)
        total += count * statistics.median(times[2:])
    return total


# ---- samforge ----------------------------------------------------------------------------------------
def run(command, **more):
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **more)


class Samforge:
    """The program as a child process; absent: why it is not there."""

    def __init__(self, a, device):
        self.device, self.absent, self.prefix = device, None, os.environ.get("PREFIX", "")
        self.program = Path(a.samforge) if a.samforge else Path(a.build).resolve() / "samforge"
        self.thread = None
        if not a.samforge:  # while PyTorch's routes are checked and compiled
            self.thread = threading.Thread(target=self.build_all, args=[Path(a.build).resolve()])
            self.thread.start()
        elif not self.program.exists():
            self.absent = f"{self.program} does not exist"

    def build_all(self, build):
        try:
            self.absent = self.build(build)
        except OSError as e:
            self.absent = f"the build failed: {e}"
        say("samforge", f"left out: {self.absent}" if self.absent else "is built")

    def wait(self):
        """Nothing is timed while it is built."""
        if self.thread:
            self.thread.join()

    def shell(self, words):
        """Runs words in an environment where the libraries are found."""
        line = '. tests/gpu/prefix.sh && exec "$@"'
        return run(["sh", "-c", line, "sh", *map(str, words)], cwd=TOP,
                   env={**os.environ, "PREFIX": self.prefix} if self.prefix else None)

    def configure(self, build, nvcc):
        words = ["cmake", "-S", TOP, "-B", build, "-DWITH_TESTS=OFF", "-DWITH_MPI=OFF"]
        if shutil.which("ninja"):
            words += ["-G", "Ninja"]
        if self.device.type == "cuda":
            major, minor = torch.cuda.get_device_capability()
            words += [f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={major}{minor}-real"]
        else:
            words += ["-DWITH_CUDA=OFF"]
        return self.shell(words)

    def build(self, build):
        nvcc = shutil.which("nvcc") or "/usr/local/cuda/bin/nvcc"
        if self.device.type == "cuda" and not Path(nvcc).exists():
            return "no nvcc to build its GPU plugin with"
        if not shutil.which("cmake"):
            return "no cmake to build it with"
        say("building samforge in", build)
        done = self.configure(build, nvcc)
        if done.returncode and not self.prefix:
            say("its libraries are missing; fetching them")
            fetched = run(["tests/gpu/fetch_packages.sh", build / "prefix"], cwd=TOP)
            if fetched.returncode:
                return "libraries are missing, and cannot be fetched: " + done.stdout.strip().splitlines()[-1]
            shutil.rmtree(build / "CMakeFiles", ignore_errors=True)
            (build / "CMakeCache.txt").unlink(missing_ok=True)
            self.prefix = str(build / "prefix")
            done = self.configure(build, nvcc)
        if done.returncode == 0:
            done = self.shell(["cmake", "--build", build, "-j", os.cpu_count() or 4])
        if done.returncode:
            return "the build failed: " + "\n".join(done.stdout.strip().splitlines()[-12:])
        if self.device.type == "cuda" and not (build / "libsamforge_cuda.so").exists():
            return "the build made no GPU plugin: " + done.stdout[-400:]
        return None

    def bench(self, model, z, steps, what):
        """What `samforge bench` says of a step, as JSON; a string: why it says nothing."""
        done = subprocess.run(
            ["sh", "-c", '. tests/gpu/prefix.sh && exec "$@"', "sh", str(self.program), "bench", what, f"configs/{model}.yaml",
             "--device", self.device.type, "--json", "--steps", str(steps), "train.batch=1", f"train.masks={z['masks']}",
             f"train.rounds={z['rounds']}", f"train.chunk={z['masks']}", "train.drop_path=0", "train.dropout=0", "train.recompute=false"],
            cwd=TOP, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False,
            env={**os.environ, "PREFIX": self.prefix} if self.prefix else None)
        if done.returncode:
            return f"exit code {done.returncode}: {done.stderr.strip()[-400:]}"
        return json.loads(done.stdout)


# ---- one model ---------------------------------------------------------------------------------------
def make_step(z, device):
    sam = torch_sam.Sam(z).to(device)
    n = sum(p.numel() for p in sam.parameters())
    if z["parameters"] and n != z["parameters"]:
        raise AssertionError(f"{n} parameters, SAM has {z['parameters']}")
    torch_sam.randomize(sam, 0)
    say(f"{n} parameters")
    return torch_sam.Step(sam, z, device.type == "cuda")


def gate(step, z, device, result):
    """The variants that may be timed."""
    good = {}
    for name, (route, compiled) in VARIANTS.items():
        why = None
        if compiled and not hasattr(torch, "compile"):
            why = f"PyTorch {torch.__version__} has no torch.compile"
        elif route == "efficient" and torch_sam.sdpa_kernel is None:
            why = f"PyTorch {torch.__version__} cannot pin a kernel of attention"
        elif route == "flex" and torch_sam.flex_attention is None:
            why = f"PyTorch {torch.__version__} has no FlexAttention"
        why = why or route_fails(z, device, route)
        if not why:
            try:
                step.variant(route, compiled)
                why = step_fails(step)
            except Exception as e:
                why = f"{type(e).__name__}: {str(e).splitlines()[0][:300] if str(e) else ''}"
        if why:
            result["left out"][name] = why
        else:
            good[name] = (route, compiled)
        say(f"  {name}: {'left out: ' + why if why else 'correct'}")
    return good


def one_turn(step, good, samforge, model, z, a, into):
    """A pair: every variant once. Memory is of the variant alone: caches are emptied between them."""
    for name, (route, compiled) in good.items():
        step.variant(route, compiled)
        step(), step.update()  # warm again behind the others
        if step.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        into["step"].setdefault(name, []).append(time_step(step, a.steps))
        if step.device.type == "cuda":
            into["memory"].setdefault(name, []).append(torch.cuda.max_memory_allocated())
        phases = time_phases(step)
        into["decoder"].setdefault(name, []).append(sum(phases[p] for p in DECODER))
        into["phases"].setdefault(name, []).append(phases)
        into["attention"].setdefault(name, []).append(time_attention(z, step.device, route, 5))
    if step.device.type == "cuda":
        torch.cuda.empty_cache()  # room for the child
    if samforge.absent:
        return
    said = samforge.bench(model, z, a.steps, "ops")
    if isinstance(said, str):
        samforge.absent = said
        say("  samforge left out:", said)
        return
    ops = [o for o in said["ops"] if o["op"] == "attention"]
    into["step"].setdefault("samforge", []).append(said["step_seconds"])
    into["decoder"].setdefault("samforge", []).append(sum(said["phases"][p] for p in DECODER))
    into["phases"].setdefault("samforge", []).append(said["phases"])
    into["attention"].setdefault("samforge", []).append(sum(o["seconds"] for o in ops))
    if said.get("on_device"):
        device = said["on_device"]  # with what the driver takes for graphs, where that is more
        into["memory"].setdefault("samforge", []).append(max(device["memory"], device.get("in_use") or 0))
    into["samforge"] = said


def ratios(measured):
    """Of every variant over samforge, pair by pair: above 1, samforge is ahead."""
    out = {}
    for what in ("step", "attention", "decoder", "memory"):
        ours = measured[what].get("samforge", [])
        for name, theirs in measured[what].items():
            pairs = [t / o for t, o in zip(theirs, ours)]
            if name != "samforge" and pairs:
                out.setdefault(what, {})[name] = dict(median=statistics.median(pairs), min=min(pairs), max=max(pairs),
                                                      pairs=len(pairs))
    return out


def table(model, measured, found):
    print(f"\n{model}: medians, and ratio to samforge: median, least … greatest of the pairs")
    print(f"{'':22s}{'step ms':>10s}{'attention ms':>14s}{'decoder ms':>12s}{'memory GB':>11s}")
    for name in measured["step"]:
        row = f"{name:22s}"
        for what, scale, width in (("step", 1e3, 10), ("attention", 1e3, 14), ("decoder", 1e3, 12), ("memory", 1e-9, 11)):
            values = measured[what].get(name)
            row += f"{statistics.median(values) * scale:{width}.2f}" if values else f"{'-':>{width}s}"
        print(row)
    for what, of in found.items():
        for name, r in of.items():
            print(f"  {what:10s} {name:22s} {r['median']:6.2f}×  {r['min']:.2f} … {r['max']:.2f}")
    if not found:
        print("  no ratios: samforge, or every variant of PyTorch, was left out")


def compare(model, samforge, device, a):
    z = dict(torch_sam.SIZES[model])
    z.update({k: getattr(a, k) for k in ("masks", "rounds") if getattr(a, k)})
    z["silent"] = min(z["silent"], z["rounds"] - 1)
    measured = {what: {} for what in ("step", "attention", "decoder", "memory", "phases")}
    result = {"sizes": z, "left out": {}, "measured": measured}
    say(f"{model}: {z['masks']} masks, {z['rounds']} rounds")
    step = make_step(z, device)
    good = gate(step, z, device, result)
    samforge.wait()
    for pair in range(a.pairs):
        if pair > 0 and time.monotonic() - began > a.until:
            say(f"  time is up behind {pair} pairs")
            break
        one_turn(step, good, samforge, model, z, a, measured)
        say(f"  pair {pair + 1}:", ", ".join(f"{k} {v[-1] * 1e3:.1f} ms" for k, v in measured["step"].items()))
    if samforge.absent:
        result["left out"]["samforge"] = samforge.absent
    result["ratios"] = ratios(measured)
    table(model, measured, result["ratios"])
    return result


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", action="append", choices=list(torch_sam.SIZES), help="default: vit_b and vit_h")
    p.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    p.add_argument("--pairs", type=int, default=5)
    p.add_argument("--steps", type=int, default=3, help="timed in a turn; their median counts")
    p.add_argument("--masks", type=int)
    p.add_argument("--rounds", type=int)
    p.add_argument("--minutes", type=float, default=9.5, help="no pair begins behind the share of a model in it")
    p.add_argument("--build", default=str(TOP / "build-beside"), help="folder that samforge is built in")
    p.add_argument("--samforge", help="a program that is built already")
    p.add_argument("--out", help="JSON goes here")
    a = p.parse_args()
    models = a.model or ["vit_b", "vit_h"]
    if a.device == "cuda" and not torch.cuda.is_available():
        print("skipped: PyTorch sees no GPU here; --device cpu --model tiny tries the script")
        return 77
    device = torch.device(a.device)
    if hasattr(torch, "_dynamo"):
        for limit in ("recompile_limit", "cache_size_limit"):  # its name changed
            if hasattr(torch._dynamo.config, limit):
                setattr(torch._dynamo.config, limit, 64)
    report = {"torch": torch.__version__, "device": torch.cuda.get_device_name() if a.device == "cuda" else "cpu", "models": {}}
    say("PyTorch", report["torch"], "on", report["device"])
    samforge = Samforge(a, device)
    for i, model in enumerate(models):
        start = time.monotonic() - began
        a.until = start + (60 * a.minutes - start) / (len(models) - i)
        try:
            report["models"][model] = compare(model, samforge, device, a)
        except (torch.cuda.OutOfMemoryError, AssertionError) as e:
            say(f"{model} left out: {str(e).splitlines()[0]}")
            report["models"][model] = {"left out": {"all": str(e).splitlines()[0]}}
        if a.device == "cuda":
            torch.cuda.empty_cache()
    samforge.wait()
    if a.out:
        Path(a.out).write_text(json.dumps(report, indent=1))
    return 0 if any(m.get("ratios") for m in report["models"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
