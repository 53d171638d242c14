"""The Prometheus names JouleTrace publishes: the one source for exporter, dashboards and docs."""

from __future__ import annotations

from dataclasses import dataclass

EXPORTER_PORT = 9836
GPU_LABELS = ("gpu", "uuid", "simulated")


@dataclass(frozen=True, slots=True)
class Metric:
    """A published metric: its full name, type, and what it is."""

    name: str
    kind: str
    help: str


GPU_ENERGY = Metric("jouletrace_gpu_energy_joules_total", "counter", "Hardware energy counter since driver load.")
GPU_POWER = Metric("jouletrace_gpu_power_watts", "gauge", "Instantaneous power of the device.")
GPU_POWER_AVERAGE = Metric("jouletrace_gpu_power_average_watts", "gauge", "The driver's running mean of power.")
GPU_SM_CLOCK = Metric("jouletrace_gpu_sm_clock_hertz", "gauge", "Present SM clock.")
GPU_MEMORY_CLOCK = Metric("jouletrace_gpu_memory_clock_hertz", "gauge", "Present memory clock.")
GPU_TEMPERATURE = Metric("jouletrace_gpu_temperature_celsius", "gauge", "Die temperature.")
GPU_UTILIZATION = Metric("jouletrace_gpu_utilization_ratio", "gauge", "Share of time a kernel was running, 0 to 1.")
GPU_MEMORY_USED = Metric("jouletrace_gpu_memory_used_bytes", "gauge", "Device memory in use.")
GPU_POWER_LIMIT = Metric("jouletrace_gpu_power_limit_watts", "gauge", "Enforced power limit.")
GPU_CLOCK_EVENT = Metric("jouletrace_gpu_clock_event_active", "gauge", "1 while this reason holds the clocks back.")
SAMPLES = Metric("jouletrace_exporter_samples_total", "counter", "Readings taken.")
READ_SECONDS = Metric("jouletrace_exporter_read_seconds_total", "counter", "Time spent inside the device's driver.")

GPU_GAUGES = {
    "power_w": (GPU_POWER, 1.0),
    "power_average_w": (GPU_POWER_AVERAGE, 1.0),
    "sm_mhz": (GPU_SM_CLOCK, 1e6),
    "memory_mhz": (GPU_MEMORY_CLOCK, 1e6),
    "temperature_c": (GPU_TEMPERATURE, 1.0),
    "utilization": (GPU_UTILIZATION, 1.0),
    "memory_used_bytes": (GPU_MEMORY_USED, 1.0),
    "power_limit_w": (GPU_POWER_LIMIT, 1.0),
}
METRICS = (
    GPU_ENERGY,
    GPU_POWER,
    GPU_POWER_AVERAGE,
    GPU_SM_CLOCK,
    GPU_MEMORY_CLOCK,
    GPU_TEMPERATURE,
    GPU_UTILIZATION,
    GPU_MEMORY_USED,
    GPU_POWER_LIMIT,
    GPU_CLOCK_EVENT,
    SAMPLES,
    READ_SECONDS,
)
