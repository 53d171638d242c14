"""What is launched and sampled on each kind of machine, and what is refused with which advice."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest

from profiler.choose import Facts, GpuFacts, Holder, choose, engine_gpus
from profiler.errors import UsageError
from servers.models import find_model
from tests.support.runs import config

GB = 10**9
MISTRAL = find_model("mistral-7b")
H100 = tuple(GpuFacts(f"GPU-{i}", i, "NVIDIA H100", 79 * GB, 80 * GB, ()) for i in range(8))
RTX_4090 = GpuFacts(
    "GPU-rtx", 0, "NVIDIA GeForce RTX 4090", 23 * GB, 24 * GB, (Holder(900, "Xorg", None, compute=False),)
)
NO_GPU = Facts((), "no NVIDIA driver", vllm=None, no_rapl_why="not readable")
WORKER = Holder(77, "VLLM::EngineCore", 8000, compute=True)


def _facts(*gpus: GpuFacts, vllm: Literal["gpu", "cpu"] | None = "gpu") -> Facts:
    return Facts(gpus, None, vllm=vllm, no_rapl_why="not readable")


def test_without_a_gpu_the_engine_is_simulated() -> None:
    """A machine with no GPU simulates an H100."""
    found = choose(config(), MISTRAL, NO_GPU)
    assert (found.engine, found.sim_gpu) == ("sim", "h100-sxm")


def test_a_gpu_without_an_engine_is_never_simulated_silently() -> None:
    """A GPU machine without vLLM is told how to get it, and how to simulate on purpose."""
    with pytest.raises(UsageError, match="no engine") as caught:
        choose(config(), MISTRAL, _facts(RTX_4090, vllm=None))
    assert "make vllm" in caught.value.hint
    assert "SERVER=sim" in caught.value.hint
    assert choose(config(server="sim"), MISTRAL, _facts(RTX_4090, vllm=None)).engine == "sim"


def test_a_cpu_build_is_not_taken_for_the_gpus_engine() -> None:
    """A CPU build beside a GPU counts as no engine; asked for by name it runs on the CPU."""
    facts = _facts(RTX_4090, vllm="cpu")
    with pytest.raises(UsageError, match="no engine"):
        choose(config(), MISTRAL, facts)
    assert choose(config(server="vllm"), MISTRAL, facts).uuids == ()


def test_a_recording_beside_a_real_gpu_meters_the_run() -> None:
    """--gpu replay:FILE launches on a free GPU and samples the recording."""
    found = choose(config(gpu="replay:FILE"), MISTRAL, _facts(RTX_4090))
    assert (found.uuids, found.meters) == (("GPU-rtx",), "replay:FILE")


def test_a_desktop_gpu_is_used_with_a_note() -> None:
    """A display on the GPU is a note, not a refusal."""
    found = choose(config(), MISTRAL, _facts(RTX_4090))
    assert found.engine == "vllm"
    assert "display" in found.notes[0]


def test_a_free_gpu_is_chosen_by_uuid() -> None:
    """On a node where GPU 0 is taken the next free one is launched on and sampled, by UUID."""
    found = choose(config(), MISTRAL, _facts(replace(H100[0], holders=(WORKER,)), *H100[1:]))
    assert found.uuids == ("GPU-1",)
    assert found.meters == "nvml:GPU-1"


def test_tensor_parallel_takes_as_many_free_gpus() -> None:
    """A split over four GPUs samples exactly those four."""
    assert choose(config(tensor_parallel=4), MISTRAL, _facts(*H100)).uuids == tuple(f"GPU-{i}" for i in range(4))


def test_no_free_gpu_names_the_holder_and_its_url() -> None:
    """When every GPU is taken the refusal names process and port and suggests attaching."""
    with pytest.raises(UsageError, match=r"VLLM::EngineCore \(pid 77\) on port 8000") as caught:
        choose(config(), MISTRAL, _facts(*(replace(gpu, holders=(WORKER,)) for gpu in H100)))
    assert "URL=http://127.0.0.1:8000" in caught.value.hint


def test_processes_that_cannot_be_seen_are_judged_by_memory() -> None:
    """In a container, a GPU with 40 GB in use is taken and one with 1 GB in use is free."""
    hidden = [replace(gpu, holders=None) for gpu in H100[:2]]
    busy = replace(hidden[0], memory_free_bytes=40 * GB)
    assert choose(config(), MISTRAL, _facts(busy, hidden[1])).uuids == ("GPU-1",)


def test_a_context_that_does_not_fit_suggests_one_that_does() -> None:
    """Mistral's 32,768 tokens beside its weights do not fit into 16 GB; the refusal names a context that does."""
    small = replace(RTX_4090, memory_free_bytes=int(15.5 * GB), memory_total_bytes=int(17.3 * GB))
    with pytest.raises(UsageError, match="context") as caught:
        choose(config(), MISTRAL, _facts(small))
    suggested = int(caught.value.hint.split("MAX_LEN=")[1].split()[0])
    assert choose(config(max_model_len=suggested), MISTRAL, _facts(small)).engine == "vllm"
    with pytest.raises(UsageError):
        choose(config(max_model_len=suggested + 2048), MISTRAL, _facts(small))


def test_weights_that_do_not_fit_are_refused_before_launch() -> None:
    """A 70B model on one 24 GB GPU is refused with the size of its weights."""
    with pytest.raises(UsageError, match=r"141\.\d GB of weights"):
        choose(config(), find_model("llama-3.1-70b"), _facts(RTX_4090))


def test_an_attached_engine_is_sampled_on_exactly_its_gpus() -> None:
    """With a URL the GPUs are those that hold the engine's processes; unknown ones have to be named."""
    facts = _facts(H100[0], replace(H100[1], holders=(WORKER,)), *H100[2:])
    assert choose(config(url="http://127.0.0.1:8000"), MISTRAL, facts).meters == "auto"
    assert engine_gpus(facts, frozenset({70, 77})) == "nvml:GPU-1"
    with pytest.raises(UsageError, match="cannot be told") as caught:
        engine_gpus(facts, frozenset())
    assert "GPU=nvml:GPU-0" in caught.value.hint


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"server": "vllm"}, "not installed"),
        ({"server": "sim", "gpu": "rapl"}, "does not go with"),
        ({"server": "sim", "exporter": "http://127.0.0.1:9836"}, "does not go with"),
        ({"gpu": "nvml"}, "no NVIDIA driver"),
        ({"gpu": "foo"}, "cannot read --gpu foo"),
        ({"gpu": "replay:"}, "cannot read --gpu"),
        ({"gpu": "none", "exporter": "http://127.0.0.1:9836"}, "both name meters"),
    ],
)
def test_contradictions_are_refused(fields: dict[str, object], words: str) -> None:
    """Settings that cannot go together are a usage error."""
    with pytest.raises(UsageError, match=words):
        choose(config(**fields), MISTRAL, NO_GPU)


def test_a_gpu_that_is_not_there_is_refused_with_those_that_are() -> None:
    """Asking for GPU 9 lists what there is."""
    with pytest.raises(UsageError, match="no GPU 9") as caught:
        choose(config(gpu="nvml:9"), MISTRAL, _facts(*H100))
    assert "GPU-0" in caught.value.hint


def test_vllm_without_a_gpu_has_host_energy_or_says_why_not() -> None:
    """On a CPU energy comes from RAPL where readable, else it is absent with the reason."""
    facts = replace(NO_GPU, vllm="cpu")
    absent = choose(config(server="vllm"), MISTRAL, facts)
    assert absent.meters is None
    assert absent.no_energy_why is not None
    assert "not readable" in absent.no_energy_why
    assert choose(config(server="vllm"), MISTRAL, replace(facts, no_rapl_why=None)).meters == "rapl"
