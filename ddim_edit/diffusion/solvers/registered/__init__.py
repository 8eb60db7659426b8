"""The solvers that have a name, one module each; every module that defines `ENTRY` is found by the registry.

The modules do not import torch when they are imported, so that the command line can list the solvers quickly.
"""
