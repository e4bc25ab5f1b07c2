"""Benchmarks: every figure is a ratio to torch in the same process, and a part of the measured roof."""
