"""Codecs between images and x_0: pixels and autoencoders."""
