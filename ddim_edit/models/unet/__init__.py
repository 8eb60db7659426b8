"""UNets of the checkpoint families, which expose their bottleneck."""
