"""The attention kernels, and which of them a platform uses."""
