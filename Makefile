# The front door. Each target installs what it lacks when run as root, otherwise prints the command that does.
# Variables: JOBS (compilations at once), CXX (for the first configuration of a build folder), DALSEGNO_MODELS.
.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:$(PATH)
export JOBS
MODEL := SmolLM2-135M-Instruct.Q4_1

.PHONY: help setup build demo examples test test-adapters models bench bench-compare soak aarch64 tsan clang format tidy clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' Makefile

setup: build/setup-build.stamp ## install what a build needs, or say how
build/setup-%.stamp: packages.txt scripts/setup bridge/Cargo.toml
	@scripts/setup $*
	@mkdir -p build && touch $@

build: build/setup-build.stamp ## build build/release/dalsegno
	@scripts/build release dalsegno

demo: build ## set up, build, fetch SmolLM2 and hold a short conversation
	@scripts/fetch_models smollm2
	@scripts/demo $(MODEL)

examples: build/setup-build.stamp ## build examples/, programs of a page each, into build/release
	@scripts/build release examples
	@ls build/release/example_*

test: build/setup-build.stamp build/setup-test.stamp build/setup-cross.stamp ## build and run every test, also under ASan and UBSan
	@scripts/test

test-adapters: build/setup-build.stamp build/setup-test.stamp ## run the Python adapters with the packages they stand for (gigabytes)
	@scripts/test_adapters

aarch64: build/setup-build.stamp build/setup-cross.stamp ## build for aarch64 and run the tests of arithmetic under qemu
	@scripts/test_aarch64

models: build/setup-build.stamp ## fetch SmolLM2 and Gemma 3 into the models folder
	@scripts/fetch_models

bench: build/setup-build.stamp build/setup-bench.stamp ## measure the kernels, then prefill and decode of SmolLM2
	@scripts/fetch_models smollm2
	@scripts/bench $(MODEL)

bench-compare: build build/setup-bench.stamp ## measure beside llama.cpp and OpenVINO GenAI (compiles the former once)
	@scripts/fetch_models smollm2
	@scripts/bench_compare --model $(MODEL)

soak: build build/setup-test.stamp ## the long runs: one hash over every path, quality of the real models
	@scripts/fetch_models
	@scripts/soak

tsan: build/setup-build.stamp ## run the threaded tests under TSan
	@scripts/build tsan threaded_tests
	@scripts/ctest tsan -L threads

clang: build/setup-build.stamp build/setup-develop.stamp ## build everything with clang++
	@scripts/build clang

format: build/setup-test.stamp ## format the C++ files in place
	@scripts/format

tidy: build/setup-build.stamp build/setup-develop.stamp ## run clang-tidy
	@scripts/tidy

clean: ## remove everything that was built
	rm -rf build bridge/target
