"""Load checkpoints and run them as a `Model`: families, conditioning, codecs and executors."""
