"""The fixed-point solvers, one file per method."""
