"""Runs untrusted programs and judges them. No JAX here, and nothing of ours but `o1coder_jax.records` and `errors`."""
