"""Admits, merges, batches, dispatches and retries. Knows nothing of torch or gRPC."""
