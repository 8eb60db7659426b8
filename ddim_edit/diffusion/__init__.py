"""The mathematics of diffusion: schedules, grids, denoisers, solvers, noise and the bottleneck."""
