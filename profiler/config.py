"""What a profile was asked to do: frozen, validated, stored in the manifest as it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

QUICK_IDLE_S, QUICK_WINDOW_S = 5.0, 30.0
# measuring.md, recipe 3 and 4: idle of at least 30 s, a window of at least 60 s.
FULL_IDLE_S, FULL_WINDOW_S = 30.0, 60.0

Positive = Annotated[float, Field(gt=0)]


class ProfileConfig(BaseModel):
    """One profile. Everything that decides what is launched, sent and measured."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str | None = Field(description="name of models.toml, a directory, or a hub id; None: whatever `url` serves")
    server: Literal["auto", "vllm", "sim"] = Field(default="auto", description="engine to launch")
    url: str | None = Field(default=None, description="base URL of an engine that runs already; nothing is launched")
    gpu: str = Field(
        default="auto", description="auto, nvml, nvml:0,1, nvml:UUID, sim, sim:NAME, replay:FILE, rapl, none"
    )
    exporter: str | None = Field(default=None, description="base URL of a running exporter on this host")
    arrival: Literal["poisson", "constant"] = Field(default="poisson", description="arrival process of the open loop")
    rate_rps: Positive | None = Field(default=None, description="asked request rate of the open loop, requests/s")
    concurrency: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="requests in flight of a closed loop"
    )
    input: str = Field(default="512", description="prompt length in tokens: N or LOW:HIGH")
    output: str = Field(default="128", description="output length in tokens: N or LOW:HIGH")
    duration_s: Positive = Field(default=QUICK_WINDOW_S, description="length of the measurement window, s")
    requests: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="end the window when this many have been scheduled in it"
    )
    warmup_s: Annotated[float, Field(ge=0)] | None = Field(
        default=None, description="warm-up before the window, s; None: auto"
    )
    idle_s: Annotated[float, Field(ge=1)] = Field(
        default=QUICK_IDLE_S, description="length of the loaded-idle baseline, s; at least ten steps of a counter"
    )
    full: bool = Field(default=False, description="idle and window as long as the measuring recipe asks")
    weights: Literal["real", "random"] = Field(
        default="real", description="real, or the real architecture with random weights"
    )
    dtype: str | None = Field(default=None, description="weight type the engine is asked for; None: the model's own")
    tensor_parallel: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="GPUs to split over; None: as needed"
    )
    max_model_len: Annotated[int, Field(gt=0)] | None = Field(
        default=None, description="context limit for the engine, tokens"
    )
    prefix_caching: bool = Field(default=False, description="let the engine reuse prompt prefixes")
    engine_args: tuple[str, ...] = Field(default=(), description="further arguments passed to the engine as they are")
    port: Annotated[int, Field(ge=0, le=65535)] = Field(default=0, description="the engine's port; 0: a free one")
    start_timeout_s: Positive = Field(default=600.0, description="longest wait for the engine to be ready, s")
    request_timeout_s: Positive = Field(default=120.0, description="longest life of one request, s")
    slo: tuple[str, ...] = Field(default=(), description="service-level objectives, e.g. ttft_p95=0.5")
    seed: int = Field(default=0, description="seed of arrivals, lengths and prompts")
    out: Path = Field(default=Path("runs"), description="directory that run directories are made in")
