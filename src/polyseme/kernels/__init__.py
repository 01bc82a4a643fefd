"""Loops in C and in Triton, and the private operations of torch: the one room that has them.

`tiles` has the operations that dictionaries are computed by, each carried out by the compiled loops, by Triton or by
torch, and `tuning` what decides which; `exact` those whose bits depend on a vector and a latent alone.

On a CPU: `library` finds the build of the loops (`c/`) and torch's threads to run them, and `loops_in_use` says which
are in use and why not; `loops` checks what they are called with; `compiled` has the loops of a training step, `int8`
the selection by products of bytes, `attention` softmax attention; `onednn` is a linear map by an operation private to
torch. On a GPU: `triton_kernels`.

`shield` sets aside the settings of a process that would change numbers, and `workspace` keeps a step's memory.
"""
