"""Loops in C and in Triton, and the private operations of torch: the one room that has them.

`tiles` has the operations that dictionaries are computed by, each carried out by the compiled loops, by Triton or by
torch; `tuning` decides which, and `backend` says which it is and why not a faster one; `exact` has those whose bits
depend on a vector and a latent alone.

On a CPU: `library` finds the build of the loops (`c/`) and torch's threads to run them; `loops` checks their arguments;
`compiled` has the loops of a training step, `int8` the selection by products of bytes, `attention` softmax attention;
`onednn` is a linear map by an operation private to torch. On a GPU: `triton_kernels`.

`shield` sets aside the settings of a process that would change numbers, and `workspace` keeps a step's memory.
"""
