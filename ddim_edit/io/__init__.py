"""Read and write files: atomic writes, tensor files, schema validation and prefetching."""
