"""CUDA bodies of the operators: Triton kernels (kernels/) and the CUDA extension (csrc/vlae_cuda.h).

`vlae_fast.ops` registers the functions of this module under their names, with the same arguments as those of
`native.py`. No function here synchronises with the host: values on a GPU are not checked.
"""
