"""Bits per dimension of images along the probability flow ODE."""
