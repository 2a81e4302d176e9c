"""Expansions: scalar ops said in terms of others, once for every backend, a module a family.

All are branch-free. Bounds are the greatest error in units in the last place of the result (ULP), over all operands
unless the docstring says where; `tests/ops/test_accuracy.py` holds them.
"""
