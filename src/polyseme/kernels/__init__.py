"""Loops in C and in Triton, and the private operations of torch: the one room that has them."""
