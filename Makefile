# make            build bin/mlkv
# make demo       the whole method on the small base that the repository carries
# make test       every test that needs no GPU
# make help       the other targets

.DEFAULT_GOAL := build
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c

GO ?= go
# The vector loops of internal/op and internal/blas need Go's simd experiment;
# without it the scalar ones serve.
export GOEXPERIMENT := $(shell GOEXPERIMENT=simd $(GO) version >/dev/null 2>&1 && echo simd)
include internal/engine/cuda/build.mk

TAGS := $(CUDA_TAGS)
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
COMMIT := $(shell git rev-parse HEAD 2>/dev/null)
LDFLAGS := -X mlkv/internal/provenance.version=$(VERSION) -X mlkv/internal/provenance.commit=$(COMMIT)
GOFLAGS_ALL := -tags '$(TAGS)'
MLKV := bin/mlkv

.PHONY: build
build: ## build bin/mlkv, with CUDA support where a C compiler exists
	$(GO) build $(GOFLAGS_ALL) -buildvcs=false -trimpath -ldflags '$(LDFLAGS)' -o $(MLKV) ./cmd/mlkv

.PHONY: test
test: ## run every test that needs no GPU
	$(GO) test $(GOFLAGS_ALL) -count=1 ./...

.PHONY: test-kills
test-kills: ## kill prepare, pull and uptrain at random moments, fifty times and more
	MLKV_KILLS=50 $(GO) test $(GOFLAGS_ALL) -count=1 -v -run TestKill ./internal/data/prepare
	MLKV_HUB_KILLS=50 $(GO) test $(GOFLAGS_ALL) -count=1 -run Kill ./internal/hub
	$(GO) test $(GOFLAGS_ALL) -count=1 -run TestKilled ./internal/train

.PHONY: check-transformers
check-transformers: build build/transformers/ready ## run what mlkv writes in Hugging Face's transformers
	build/transformers/bin/python tools/check_transformers.py --mlkv $(MLKV)

build/transformers/ready:
	python3 -m venv build/transformers
	build/transformers/bin/pip install --quiet torch 'transformers>=5'
	touch $@

.PHONY: lint
lint: ## formatting and vet, with and without CUDA
	@test -z "$$(gofmt -l cmd internal tools)" || { gofmt -l cmd internal tools; echo "run gofmt -w on these"; exit 1; }
	$(GO) vet $(GOFLAGS_ALL) ./...
	CGO_ENABLED=0 $(GO) vet ./...

.PHONY: demo
demo: build ## convert, uptrain and evaluate six rows of the small base
	tools/demo.sh $(MLKV) runs/demo

.PHONY: absorb-rows
absorb-rows: build ## absorption beside mean pooling on five rows of the small base
	tools/absorb-rows.sh $(MLKV) runs/absorb-rows

.PHONY: absorb-time
absorb-time: build ## time and memory of absorption for nine rows of Pythia-160M's shape
	rm -rf runs/absorb-time && mkdir -p runs/absorb-time
	$(MLKV) init pythia-160m --tokenizer ../shared/data/tokenizer/20B_tokenizer.json --out runs/absorb-time/model
	$(MLKV) prepare --tokenizer ../shared/data/tokenizer/20B_tokenizer.json --out runs/absorb-time/data ../shared/data/corpus/val.jsonl.zst
	tools/absorb-time.sh $(MLKV) runs/absorb-time/model runs/absorb-time/data

.PHONY: bench
bench: ## rates of training, scoring, conversion and reading beside the machine's own
	$(GO) test $(GOFLAGS_ALL) -run '^$$' -bench . -benchtime 3x ./internal/blas ./internal/engine/cpu ./internal/convert ./internal/checkpoint ./internal/tokenizer ./internal/data/... ./internal/hub

.PHONY: sanitize-gpu
sanitize-gpu: bin/cuda.test ## run the CUDA engine's kernels under compute-sanitizer
	tools/sanitize-gpu.sh bin/cuda.test

bin/cuda.test: ## the CUDA engine's tests as a binary, for a machine with a GPU and no Go
	$(GO) test $(GOFLAGS_ALL) -c -o $@ ./internal/engine/cuda
.PHONY: bin/cuda.test

.PHONY: bench-gpu
bench-gpu: bin/cuda.test ## check the CUDA engine and time its steps beside PyTorch's
	tools/bench-gpu.sh bin/cuda.test ../shared

.PHONY: bench-decode
bench-decode: bin/cuda.test ## check the CUDA engine's decoder and time its steps beside PyTorch's
	tools/bench-decode.sh bin/cuda.test ../shared

.PHONY: fuzz
FUZZTIME ?= 20s
fuzz: ## run every fuzz target for FUZZTIME
	@for pkg in $$($(GO) list ./...); do \
		for f in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			echo "$$pkg $$f"; $(GO) test -run '^$$' -fuzz "^$$f$$" -fuzztime $(FUZZTIME) $$pkg; \
		done; \
	done

.PHONY: clean
clean: ## remove what make builds and the demo's run
	rm -rf bin build runs/demo runs/absorb-rows runs/absorb-time

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z][a-z/.-]*:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
