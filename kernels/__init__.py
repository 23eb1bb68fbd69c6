"""Triton kernels, installed as `vlae_fast.kernels`; `vlae_fast.gpu` launches them."""
