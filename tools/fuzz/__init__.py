"""Fuzzing of everything that reads what others wrote: `python -m tools.fuzz TARGET --inputs N --seed S`.

A target is a list of cases: a small valid file, how to damage it, and the call that reads it. Input number
i of a seed is always the same one. What may come of it is success, or one of the errors that the command
line turns into one line, with the name of the file in it (docs/trust.md).
"""
