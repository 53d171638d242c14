"""The exporter over simulated devices: two faces of the same readings, over real HTTP."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp
import pyarrow as pa
import pytest
from prometheus_client.parser import text_string_to_metric_families

from profiler import names
from profiler.sampling import Sampling
from profiler.trace import traces
from servers.sim.device import SimDevice

if TYPE_CHECKING:
    from pathlib import Path


async def _sampled(state: Path, log: Path, seconds: float) -> tuple[str, Sampling]:
    """Return /metrics and the stopped sampling after so many seconds of sampling."""
    sampling = Sampling(gpu_spec=f"simdir:{state}", log=log)
    try:
        await sampling.start()
        await asyncio.sleep(seconds)
        async with aiohttp.ClientSession() as session, session.get(f"{sampling._url}/metrics") as response:
            return await response.text(), sampling
    finally:
        await sampling.stop()


def test_both_faces_show_every_device(tmp_path: Path) -> None:
    """/samples streams each device at 20 Hz; /metrics has the documented names, labelled as simulated."""
    devices = [SimDevice.create(tmp_path / "device", "h100-sxm", index) for index in range(2)]
    text, sampling = asyncio.run(_sampled(tmp_path / "device", tmp_path / "log", 2.0))
    found = traces(pa.Table.from_batches(sampling.take()))
    assert [trace.uuid for trace in found] == [device.info.uuid for device in devices]
    for trace in found:
        span_s = (trace.t_ns[-1] - trace.t_ns[0]) * 1e-9
        assert (trace.t_ns.size - 1) / span_s == pytest.approx(20.0, rel=0.1)
        # A bare device: 75 W, by the sensor and by the counter.
        assert trace.power_w == pytest.approx(75.0)
        assert (trace.energy_j[-1] - trace.energy_j[0]) == pytest.approx(75.0 * span_s, abs=75.0 * 0.1)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    wanted = {metric.name.removesuffix("_total") for metric in names.METRICS}
    assert wanted <= set(families)
    for sample in families["jouletrace_gpu_power_watts"].samples:
        assert sample.value == pytest.approx(75.0)
        assert sample.labels["simulated"] == "true"


def test_a_missing_sensor_is_absent_and_a_lost_device_ends(tmp_path: Path) -> None:
    """What a sensor does not give is not exported as 0, and the series of a lost device end instead of freezing."""
    dark = SimDevice.create(tmp_path / "device", "h100-sxm", 0)
    dark.set_fault("counter_missing")
    gone = SimDevice.create(tmp_path / "device", "h100-sxm", 1)
    gone.set_fault("lost", at_s=1.0)

    async def claim() -> tuple[str, str | None]:
        sampling = Sampling(gpu_spec=f"simdir:{tmp_path / 'device'}", log=tmp_path / "log")
        try:
            await sampling.start()
            await asyncio.sleep(1.5)
            async with aiohttp.ClientSession() as session, session.get(f"{sampling._url}/metrics") as response:
                return await response.text(), await sampling.lost()
        finally:
            await sampling.stop()

    text, lost = asyncio.run(claim())
    assert lost is not None
    assert gone.info.uuid in lost
    assert gone.info.uuid not in text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["jouletrace_gpu_energy_joules"].samples == []
    assert [s.labels["uuid"] for s in families["jouletrace_gpu_power_watts"].samples] == [dark.info.uuid]
