"""Solvers of the probability-flow ODE, which integrate in both directions over one grid."""
