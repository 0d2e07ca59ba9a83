# make run      install once, serve configs/local.yaml until Ctrl-C
# make run CONFIG=configs/cpu.yaml PORT=8080
# make say TEXT="It is alive."   speak to the running service; writes speech.wav
# make test     the short run: every part, a few minutes        make check   all linters
# make test-all every test, as in CI                            make bench   the benchmarks
# make bench-gpu   one GPU: the engine alone, then the service under load
# make docs     the pages of docs/ as a site, in site/
# make clients  other projects' clients, which some tests speak with, in an environment of their own
# make clean    forget what was installed

CONFIG ?= configs/local.yaml
PORT ?=
TEXT ?= It is alive.
WORKERS ?= 2
export TEXT

USABLE = import sys, venv, ensurepip; sys.version_info[:2] in ((3, 11), (3, 12)) and print("$(name)")
PYTHON := $(firstword $(foreach name,python3.11 python3.12 python3,$(shell $(name) -c '$(USABLE)' 2>/dev/null)))
BIN := .venv/bin
INSTALLED := .venv/.installed

.PHONY: run say test test-all bench bench-gpu check docs clean install clients

run: $(INSTALLED)
	@exec $(BIN)/tts-serve $(CONFIG) $(if $(PORT),--port $(PORT))

say: $(INSTALLED)
	@$(BIN)/tts-say --url http://127.0.0.1:$(or $(PORT),8000) --out speech.wav "$$TEXT"

# tests/model comes first: one worker then compiles the kernels and has all of it, and the other takes the rest. Tests
# of running services come after those that compute, which would take the services' processors away.
SHORT := -m "not slow" --hypothesis-profile=short
COMPUTE := -n $(WORKERS) --dist worksteal tests/model tests/unit tests/deploy

test: $(INSTALLED)
	$(BIN)/pytest $(SHORT) $(COMPUTE)
	$(BIN)/pytest $(SHORT) tests/service

# Of the services, one worker has the shared one; the other starts those that one test needs.
test-all: $(INSTALLED)
	$(BIN)/pytest $(COMPUTE)
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup tests/service

check: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/basedpyright
	$(BIN)/lint-imports
	$(BIN)/codespell
	$(BIN)/deptry .
	cd clients && ../$(BIN)/lint-imports && ../$(BIN)/deptry .

bench: $(INSTALLED)
	$(BIN)/python benchmarks/segmentation.py
	$(BIN)/python benchmarks/codec.py --json bench-codec.json
	$(BIN)/python benchmarks/engine.py --json bench-engine.json
	$(BIN)/python benchmarks/engine.py --weights int8 --json bench-int8.json
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/encoding.py --json bench-encoding.json
	$(BIN)/python benchmarks/sockets.py --json bench-sockets.json

bench-gpu: $(INSTALLED)
	$(BIN)/python benchmarks/gpu.py

docs: $(INSTALLED)
	$(BIN)/python docs/generate.py --check
	$(BIN)/properdocs build

install: $(INSTALLED)

clients: .venv-clients/.installed

# They need other versions than the service has. uv takes 15 s for what takes pip a minute.
.venv-clients/.installed: tests/clients.txt $(INSTALLED)
	$(BIN)/python -m venv .venv-clients
	.venv-clients/bin/python -m pip install --quiet --disable-pip-version-check uv
	VIRTUAL_ENV=.venv-clients .venv-clients/bin/uv pip install --quiet --no-deps -r $<
	@touch $@

# Every dependency at a fixed version; installed again when the versions or the project's own metadata change.
$(INSTALLED): pyproject.toml constraints.txt
ifeq ($(PYTHON),)
	$(error This needs Python 3.11 or 3.12 with its venv module; no python3.11, python3.12 or python3 here is one)
endif
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf .venv .venv-clients .pytest_cache .ruff_cache build dist site
	find serve_app tests -name __pycache__ -type d -prune -exec rm -rf {} +
