"""The benchmarks cover every op and compute their ratios right; nothing is timed here."""

from __future__ import annotations

import importlib
import sys
from dataclasses import replace

import pytest
import torch

from benchmarks import report, scaling
from benchmarks.cases import cases
from benchmarks.report import HEADER, Row, others, table
from benchmarks.timing import Times, alternate
from benchmarks.training import Shape
from fusedlm import ops

# Measured inside a training step, only a set-up, in a benchmark of their own (benchmarks/quantized.py),
# or without the backward that a case has.
WITHOUT_CASE = {
    "adamw_step_",
    "grad_norm",
    "attention_qkv",
    "rope_tables",
    "sample",
    "tied",
    "WEIGHT_FORMATS",
    "QuantizedWeight",
    "quantize",
    "quantized_linear",
    "scaled_dot_product_attention",
}


def test_a_report_of_one_part_leaves_the_others(tmp_path, monkeypatch):
    for name, found in (
        ("roof", 2e9),
        ("bandwidth", 3e9),
        ("measure_training", []),
        ("table", "| t |"),
    ):
        monkeypatch.setattr(report, name, lambda *_, found=found: found)
    monkeypatch.setattr(report.curves, "measure", lambda *_: None)
    for only in ("curves", "training", "curves"):
        arguments = ["report", "--only", only, "--out", str(tmp_path)]
        monkeypatch.setattr(sys, "argv", arguments)
        report.main()
    sections = report.read_sections(tmp_path / "benchmarks.md")
    assert list(sections) == ["Training step", "Against length, width, vocabulary and threads"]
    assert "| t |" in sections["Training step"] and "curves.png" in list(sections.values())[1]
    assert all(text.startswith("Measured: 20") for text in sections.values())


@pytest.mark.parametrize("module", ["ops", "training"])
def test_a_gpu_that_is_not_there_is_said(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "--device", "cuda"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        importlib.import_module(f"benchmarks.{module}").main()
    assert "torch finds no GPU" in capsys.readouterr().err


def test_on_a_gpu_a_round_ends_when_the_gpu_has_done_it(monkeypatch):
    done = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: done.append("waited"))
    alternate({"a": lambda: done.append("a")}, 0.0, "cuda")
    assert done == ["a", "waited"] * 6
    done.clear()
    alternate({"a": lambda: done.append("a")}, 0.0)
    assert done == ["a"] * 6


def test_every_op_has_a_case_and_names_are_unique():
    with torch.device("meta"):
        found = list(cases(torch.bfloat16))
    assert {case.op for case in found} == set(ops.__all__) - WITHOUT_CASE
    assert len({case.name for case in found}) == len(found)
    assert all(case.flops > 0 or case.op in ("embedding", "cross_entropy") for case in found)


def test_candidates_run_in_turn():
    order = []
    times = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 0.0)
    assert order[:4] == ["a", "b", "a", "b"] and len(times["a"].seconds) >= 5


def test_a_table_row_has_the_ratio_of_best_and_median():
    row = Row(
        "x", "float32", {"ours": Times((1.0, 2.0, 4.0)), "eager": Times((3.0, 3.0, 9.0))}, 0.5
    )
    lines = table([row]).splitlines()
    assert [line.count("|") for line in lines] == [len(HEADER) + 1] * 3
    assert "| 3000.00 | 3.00x | 1.50x |" in lines[2] and lines[2].endswith("| 50% |")


def test_a_peer_of_some_rows_has_a_line():
    times = {
        "ours": Times((1.0, 2.0, 4.0)),
        "eager": Times((3.0,)),
        "F.both": Times((2.0, 3.0, 4.0)),
    }
    found = others(
        [Row("x", "float32", times, None), Row("y", "float32", {"ours": Times((1.0,))}, None)]
    )
    assert found == "- x, float32, next to F.both: 2000.00 ms, 2.00x (best), 1.50x (median)"


def test_flops_of_a_training_step():
    # One layer of width 2 with one head, vocabulary 3, two tokens: products of 12 * 4 + 6 weights.
    assert Shape(V=3, T=2, C=2, L=1, H=1, B=1).flops() == 2 * (6 * (48 + 6) + 7 * 2 * 2)


def test_memory_of_many_ranks_is_that_of_one_in_parts_and_what_is_whole_for_a_while():
    node = replace(scaling.NODES["gpu"], ranks=4, memory=1)  # too small for a replica
    model = scaling.Model.of(**{**scaling.SHAPES["1.1B"], "layers": 2})
    one, many = (scaling.memory(model, replace(node, ranks=n), 2) for n in (1, 4))
    assert one["parts"] == 4 * many["parts"] == 16 * model.parameters / 2
    assert one["whole"] == many["whole"] > 4 * (model.outside + model.block)
    assert scaling.memory(model, replace(node, ranks=1), 1)["whole"] == 0
    assert scaling.seconds(model, node, 1)[1] == 0 < scaling.seconds(model, node, 2)[1]
