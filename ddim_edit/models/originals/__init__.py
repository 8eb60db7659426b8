"""Models of diffusers in one file, in the layout of the code that trained them: Stable Diffusion and Flux."""
