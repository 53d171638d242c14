"""Energy meters: NVIDIA GPUs through NVML, simulated GPUs, recordings, and the host's RAPL counters."""
