"""The machine at run time: devices, progress, limits."""
