"""`tsjax doctor`: whether this machine computes right, with its versions, devices, kernels and caches."""
