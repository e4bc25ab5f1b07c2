"""Memory and time of training 1B to 70B parameters on N nodes, from formulas: nothing here is measured.

    python -m benchmarks.scaling cpu
    python -m benchmarks.scaling gpu --rate 300 --parts 200 --sums 200 --nodes 1 4 16

What the formulas are fed is below, with where each number comes from; docs/scaling.md explains them.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from fusedlm.models import Decoder, ModelConfig

GIB = 2**30
# Llama's shapes: the parameters are counted by the model itself, on the meta device.
SHAPES = {
    "1.1B": {"layers": 22, "width": 2048, "heads": 32, "kv_heads": 4, "ffn_width": 5632, "vocab_size": 32000},
    "3.2B": {"layers": 28, "width": 3072, "heads": 24, "kv_heads": 8, "ffn_width": 8192, "vocab_size": 128256},
    "8B": {"layers": 32, "width": 4096, "heads": 32, "kv_heads": 8, "ffn_width": 14336, "vocab_size": 128256},
    "13B": {"layers": 40, "width": 5120, "heads": 40, "kv_heads": 40, "ffn_width": 13824, "vocab_size": 32000},
    "34B": {"layers": 48, "width": 8192, "heads": 64, "kv_heads": 8, "ffn_width": 22016, "vocab_size": 32000},
    "70B": {"layers": 80, "width": 8192, "heads": 64, "kv_heads": 8, "ffn_width": 28672, "vocab_size": 128256},
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """ranks: on a node. rate: TFLOP/s that a rank reaches in a step. memory: GiB a rank. parts, sums: GB/s
    out of a node while weights come together and gradients are summed in parts (fsdp), and while they are
    summed on all ranks (ddp). tokens: of a batch, one batch a rank and step."""

    ranks: int
    rate: float
    memory: float
    parts: float
    sums: float
    tokens: int
    nodes: tuple[int, ...] = (1, 8, 64)


NODES = {
    # rate: 32 x 2 cores x 182 GFLOP/s. A core reaches 77 % of 236.5 GFLOP/s in a bfloat16 step, measured
    # with two (docs/benchmarks.md); that 64 do as well each is assumed. parts, sums: of gloo, measured
    # between two ranks on one machine (benchmarks.distributed); the network is not what bounds it.
    "cpu": Node(ranks=1, rate=11.7, memory=512, parts=0.36, sums=1.05, tokens=32768),
    # rate: 40 % of an H100's 989 TFLOP/s, assumed: our kernels have not run on one. Network: 8 x 400 Gbit/s.
    "gpu": Node(ranks=8, rate=396, memory=80, parts=400, sums=400, tokens=8192),
}


@dataclass(frozen=True)
class Model:
    """What the formulas need to know of one."""

    config: ModelConfig
    parameters: int
    outside: int  # of them in embedding, final norm and head
    block: int  # in one block

    @classmethod
    def of(cls, **shape) -> Model:
        config = ModelConfig.llama(**shape, context=4096)
        model = Decoder.empty(config)
        total = model.num_parameters()
        block = sum(p.numel() for p in model.blocks[0].parameters())
        return cls(config, total, total - config.layers * block, block)

    def flops(self, tokens: int) -> float:
        """Of a step with recompute: forward twice, and backward."""
        c = self.config
        products = self.parameters - c.vocab_size * c.width  # reading the embedding is no product
        head = c.vocab_size * c.width  # is not computed again
        # A pair of tokens and a channel: 4 forward, twice, and 10 backward; half of the pairs are masked.
        attention = c.layers * 9 * c.context * c.heads * c.head_width
        return tokens * (8.0 * products - 2.0 * head + attention)


def layout(model: Model, node: Node) -> str:
    """What --parallel auto takes."""
    return "ddp" if 16 * model.parameters <= node.memory * GIB / 2 else "fsdp"


def memory(model: Model, node: Node, count: int) -> dict[str, float]:
    """Bytes of a rank. Weights and gradients are float32."""
    c = model.config
    ranks = node.ranks * count if layout(model, node) == "fsdp" else 1
    kept = 2 * 2 * c.width * c.layers  # branch and stream into every block, bfloat16
    inside = 2 * (
        6 * c.width + 2 * c.kv_heads * c.head_width + 3 * c.ffn_width
    )  # of the block at work
    return {
        # Weights, gradients and AdamW's two averages.
        "parts": 16 * model.parameters / ranks,
        # Embedding, norm and head are whole all step long, and so are their gradients at its end; two
        # blocks (one at work, one on its way), and a block's gradients three times while they are sent.
        "whole": 0.0 if ranks == 1 else 8 * model.outside + (2 + 3) * 4 * model.block,
        "activations": node.tokens * (kept + inside) + 104 * 2**20,
    }


def seconds(model: Model, node: Node, count: int) -> tuple[float, float]:
    """(computing, sending) for a step of one batch a rank. With fsdp weights come together twice and
    gradients are summed in parts, with ddp they are summed (twice their size): of each float32 tensor, all
    but a node's own part leaves it once."""
    computing = model.flops(node.tokens) / (node.rate * 1e12)
    tensor = 4 * model.parameters * (count - 1) / count
    if layout(model, node) == "fsdp":
        return computing, 3 * tensor / (node.parts * 1e9)
    return computing, 2 * tensor / (node.sums * 1e9)


def row(name: str, model: Model, node: Node, count: int) -> str:
    need = memory(model, node, count)
    total = sum(need.values())
    computing, sending = seconds(model, node, count)
    tokens = node.tokens * node.ranks * count
    apart, together = computing + sending, max(computing, sending)
    days = 20 * model.parameters / tokens * apart / 86400
    fits = total <= node.memory * GIB
    cells = [
        name, count, layout(model, node), " + ".join(f"{value / GIB:.1f}" for value in need.values()),
        f"{total / GIB:.0f}" + ("" if fits else ", too much"), f"{computing:,.2f}", f"{sending:,.2f}",
        f"{tokens / apart:,.0f} - {tokens / together:,.0f}", f"{days:,.1f}" if days < 10 else f"{days:,.0f}",
    ]  # fmt: skip
    return "| " + " | ".join(map(str, cells)) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kind", choices=NODES)
    for name, unit in (
        ("ranks", int), ("rate", float), ("memory", float), ("parts", float), ("sums", float),
        ("tokens", int),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=unit)
    parser.add_argument("--nodes", type=int, nargs="+")
    given = {k: v for k, v in vars(parser.parse_args()).items() if v is not None}
    node = replace(NODES[given.pop("kind")], **given)
    print(
        f"A node: {node.ranks} rank(s) that reach {node.rate} TFLOP/s and have {node.memory} GiB each;"
        f" {node.parts} and {node.sums} GB/s of network, with fsdp and ddp. Batches of {node.tokens} tokens a"
        " rank, context 4096, bfloat16, --recompute, --parallel auto.\n"
    )
    print(
        "| model | nodes | parallel | parts + whole + activations | GiB a rank | s computing | s sending |"
        " tokens/s | days |\n" + "| --- " * 9 + "|"
    )  # fmt: skip
    for name, shape in SHAPES.items():
        model = Model.of(**shape)
        for count in node.nodes:
            print(row(name, model, node, count))


if __name__ == "__main__":
    main()
