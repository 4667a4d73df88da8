#!/usr/bin/env python3
"""Makes tests/parity/goldens/experts.bin: what PyTorch computes, for tests/parity/experts.

    tools/packages.sh goldens && python3 tools/make_goldens.py [FILE]

Needed only to change what is stored; no test runs it.  The values are seeded, but another version
of PyTorch may give other last bits: the tests allow 1e-4, norm-wise.

File, little-endian:  8 bytes "HMGOLD1\\0"; u32 records; for each record
    u16 length of its name, the name (UTF-8), u8 dims, u32 a dim, f32 values in row-major order.

Records:
    torch                             dims major, minor, patch (of PyTorch), 0: so it has no values
    layer_norm|softmax|gelu|cross_entropy / input and output names of the op and of its gradient
    ffn/init/<parameter>              the block before the first step
    ffn/step<t>/x, dy                 inputs of step t = 1 ... STEPS, the same for every optimizer
    ffn/<run>/step<t>/y, dx           outputs and input gradients of step t, before its update
    ffn/<run>/after<t>/<parameter>    parameters after t updates, for t = 1 and t = STEPS
"""
import re
import struct
import sys
from pathlib import Path

import torch

HIDDEN, ROWS, STEPS = 12, 5, 4
RATE = 1e-2
# What a run's name means; tests/parity/experts/test_parity.c has the same list in our words.
RUNS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=RATE),
    "sgd_momentum": lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.9, weight_decay=0.05),
    "sgd_clip": lambda p: torch.optim.SGD(p, lr=RATE),
    "adam": lambda p: torch.optim.Adam(p, lr=RATE),
    "adamw": lambda p: torch.optim.AdamW(p, lr=RATE, weight_decay=0.05),
}
CLIP_NORM = 0.5  # of sgd_clip

records = {}


def keep(name, tensor):
    assert name not in records
    records[name] = tensor.detach().to(torch.float32).contiguous().clone()


class Block(torch.nn.Module):
    """The feed-forward expert of hivemind 0.7.1."""

    def __init__(self, hidden):
        super().__init__()
        inner = 4 * hidden
        self.ffn = torch.nn.Sequential(
            torch.nn.Linear(hidden, inner), torch.nn.LayerNorm(inner), torch.nn.ReLU(),
            torch.nn.Linear(inner, inner), torch.nn.LayerNorm(inner), torch.nn.ReLU(),
            torch.nn.Linear(inner, hidden))

    def forward(self, x):
        return x + self.ffn(x)


def ops():
    functional = torch.nn.functional
    x = (3 * torch.randn(3, 37)).requires_grad_()
    dy = torch.randn(3, 37)

    scale, shift = torch.randn(37).requires_grad_(), torch.randn(37).requires_grad_()
    y = functional.layer_norm(x, (37,), scale, shift, 1e-5)
    gradients = torch.autograd.grad(y, (x, scale, shift), dy)
    names = "x", "dy", "scale", "shift", "y", "dx", "dscale", "dshift"
    for name, value in zip(names, (x, dy, scale, shift, y, *gradients)):
        keep("layer_norm/" + name, value)

    unary = {"softmax": lambda x: functional.softmax(x, -1), "gelu": functional.gelu}
    for name, function in unary.items():
        y = function(x)
        for part, value in zip(("x", "dy", "y", "dx"), (x, dy, y, *torch.autograd.grad(y, x, dy))):
            keep(f"{name}/{part}", value)

    label = torch.randint(37, (3,))
    loss = functional.cross_entropy(x, label)
    dx = torch.autograd.grad(loss, x)[0]
    for part, value in zip(("x", "label", "loss", "dx"), (x, label, loss, dx)):
        keep("cross_entropy/" + part, value)


def ffn():
    first = Block(HIDDEN)
    # PyTorch starts layer norms at ones and zeros: mistakes in their gradients could hide.
    with torch.no_grad():
        for i in 1, 4:
            first.ffn[i].weight.uniform_(0.5, 1.5)
            first.ffn[i].bias.uniform_(-0.5, 0.5)
    for name, parameter in first.named_parameters():
        keep("ffn/init/" + name, parameter)
    inputs = [(torch.randn(ROWS, HIDDEN), torch.randn(ROWS, HIDDEN)) for _ in range(STEPS)]
    for t, (x, dy) in enumerate(inputs, 1):
        keep(f"ffn/step{t}/x", x)
        keep(f"ffn/step{t}/dy", dy)
    for run, make in RUNS.items():
        block = Block(HIDDEN)
        block.load_state_dict(first.state_dict())
        optimizer = make(block.parameters())
        for t, (x, dy) in enumerate(inputs, 1):
            x = x.clone().requires_grad_()
            y = block(x)
            optimizer.zero_grad()
            y.backward(dy)
            keep(f"ffn/{run}/step{t}/y", y)
            keep(f"ffn/{run}/step{t}/dx", x.grad)
            if run == "sgd_clip":
                norm = torch.nn.utils.clip_grad_norm_(block.parameters(), CLIP_NORM)
                assert norm > CLIP_NORM, "nothing would be clipped"
            optimizer.step()
            if t in (1, STEPS):
                for name, parameter in block.named_parameters():
                    keep(f"ffn/{run}/after{t}/{name}", parameter)


def main():
    here = Path(__file__).resolve().parent.parent
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else here / "tests/parity/goldens/experts.bin"
    torch.manual_seed(20261122)
    torch.set_num_threads(1)
    ops()
    ffn()
    version = [int(part) for part in re.findall(r"\d+", torch.__version__)[:3]]
    out = bytearray(b"HMGOLD1\0" + struct.pack("<I", 1 + len(records)))
    out += struct.pack("<H", 5) + b"torch" + struct.pack("<B3I", 4, *version) + struct.pack("<I", 0)
    for name, tensor in records.items():
        text = name.encode()
        out += struct.pack("<H", len(text)) + text + struct.pack("<B", tensor.dim())
        out += b"".join(struct.pack("<I", dim) for dim in tensor.shape)
        out += tensor.numpy().astype("<f4").tobytes()
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(out)
    print(f"{target}: {1 + len(records)} records, {len(out)} bytes, PyTorch {torch.__version__}")


main()
