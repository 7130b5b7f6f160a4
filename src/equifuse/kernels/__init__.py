"""The few fused loops that decide the speed of a solve, in forms that agree: reference, CPU, CUDA.

``reference`` defines them as plain torch operations, for any device and dtype, with gradients. ``cpu`` has them compiled
by Numba, one pass over a row each. ``cuda`` has them in Triton. :func:`fused` chooses.
"""
