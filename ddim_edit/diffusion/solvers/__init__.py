"""Solvers of the diffusion ODE: every solver integrates in both directions over one grid."""
