# What people and CI call. Everything lands in .venv; the zoo command is .venv/bin/zoo.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
C_SOURCES := CMakeLists.txt $(shell find engine/csrc -type f)

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types unit clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## /  make \1	/p' $(MAKEFILE_LIST) | expand -t 20

install: $(VENV)/.installed ## make .venv with the zoo command

demo: install ## run the whole chain on this machine: registry, train, export, publish, serve
	$(BIN)/zoo demo

test: $(VENV)/.tested lint types unit ## lint, types and all tests

lint: $(VENV)/.tested
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.tested
	$(BIN)/mypy

unit: $(VENV)/.tested
	$(BIN)/python -m pytest -n 2

clean: ## remove .venv and build output
	rm -rf $(VENV) build dist

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml $(C_SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --progress-bar off --editable '.[registry,server,train]'
	@touch $@

$(VENV)/.tested: pyproject.toml $(C_SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --progress-bar off --editable '.[test]'
	@touch $(VENV)/.installed $@
