"""Hostile and damaged input, for everything that reads: no traceback, no hang, no code run, nothing written elsewhere.

``targets.py`` says what reads and what a valid file looks like; ``test_targets.py`` tries mutations of these in the
suite, ``python -m tests.fuzz.campaign`` does it for as long as one likes, guided by coverage (``make fuzz``).
"""
