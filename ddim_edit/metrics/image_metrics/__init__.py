"""Image metrics, one module each; every module that defines `METRIC` is found by the registry."""
