"""Computing: the plan, its meaning in numpy, and the kernels that run it fast."""
