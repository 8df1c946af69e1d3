"""`tsjax doctor`: checks of this machine's results, and a report of versions, devices, kernels and caches."""
