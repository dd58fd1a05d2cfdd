# Needs Python 3.11 to 3.14 and make, nothing else. Packages go into .venv in this folder, in the versions of
# uv.lock: `make demo`, `make ui` and `make install` take what the program runs on, the other targets add what tests
# and lint need. uv is the one on the PATH; without one, pip fetches it into .venv. Paths are relative, so the folder's
# own path may contain blanks.

.DEFAULT_GOAL := help
.PHONY: help install demo check test soak prove lint bench reference docs ui tsql-parser

PYTHON ?=
ARGS ?=
EXTRAS ?=
BIN := .venv/bin
BASE := .venv/.base
INSTALLED := .venv/.installed
export UV_PROJECT_ENVIRONMENT := .venv
export UV_COMPILE_BYTECODE := 1
unexport VIRTUAL_ENV PYTHONHOME PYTHONDONTWRITEBYTECODE

help:
	@echo "make demo     install, make a sample database, and mirror it to two others"
	@echo "make check    style, types, and the tests that need no server: 20 seconds of tests"
	@echo "make test     the whole suite; ARGS='-k name' runs a part"
	@echo "make soak     a writer, syncs and kills for ten minutes, or SOAK_SECONDS; nothing may grow"
	@echo "make prove    looks at a table that is written to, 50,000 or PROVE_ROUNDS, and a 50th as many syncs, each compared with all rows"
	@echo "make lint     style, types"
	@echo "make bench    a million rows between two PostgreSQL servers, beside psql; ARGS='--messages 100000' for less"
	@echo "make ui       Dagster's web pages, on http://localhost:3000"
	@echo "make reference  the pages docs/settings.md and docs/commands.md, made from the code"
	@echo "make docs     the documentation as web pages, in site/"
	@echo "make install  the program alone; EXTRAS='mssql api parquet postgres-storage frames' adds any of these"

install: $(BASE)
	$(if $(EXTRAS),$(call sync,--no-dev $(EXTRAS:%=--extra %)))

demo: $(BASE)
	@$(BIN)/dbsync demo $(ARGS)

test: $(INSTALLED)
	@$(BIN)/python -m pytest $(ARGS)

check: lint
	@$(BIN)/python -m pytest -m unit -n 2 $(ARGS)

# Microsoft's own T-SQL grammar, for test_mssql_parser.py: it needs Debian's mono-devel, and pip.
tsql-parser:
	@mkdir -p .cache/tsql
	@python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
	    --platform manylinux1_x86_64 --dest .cache/tsql mssql-scripter==1.0.0a23
	@cd .cache/tsql && python3 -m zipfile -e mssql_scripter-*.whl wheel && rm mssql_scripter-*.whl && \
	    mv wheel/mssqlscripter/mssqltoolsservice/bin/Microsoft.SqlServer.SqlParser.dll \
	       wheel/mssqlscripter/mssqltoolsservice/bin/NetCoreGlobalization.dll . && rm -r wheel
	@cd .cache/tsql && mcs -out:parser.exe -r:Microsoft.SqlServer.SqlParser.dll \
	    -r:/usr/lib/mono/4.5/Facades/netstandard.dll ../../dbsync_pipeline_tests/tsql/Parser.cs

soak: $(INSTALLED)
	@SOAK_SECONDS=$${SOAK_SECONDS:-600} $(BIN)/python -m pytest -n 0 -s dbsync_pipeline_tests/test_soak.py $(ARGS)

prove: $(INSTALLED)
	@PROVE_ROUNDS=$${PROVE_ROUNDS:-50000} $(BIN)/python -m pytest -n 0 dbsync_pipeline_tests/test_look.py dbsync_pipeline_tests/test_differential.py $(ARGS)

lint: $(INSTALLED)
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check .
	@$(BIN)/python -m mypy
	@$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml >/dev/null

bench: $(INSTALLED)
	@$(BIN)/python benchmarks/postgres.py $(ARGS)

reference: $(INSTALLED)
	@$(BIN)/python docs/generate.py
	@WRITE_JSON_EXAMPLES=1 $(BIN)/python -m pytest -q -n 0 dbsync_pipeline_tests/test_json_examples.py

docs: $(INSTALLED)
	$(call sync,--group docs)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "the pages are in site/; open site/index.html"

ui: $(BASE)
	@$(BIN)/dbsync ui $(ARGS)

# $(call sync,OPTIONS) installs. --inexact keeps the uv that pip put into .venv, and extras that were added before.
# Without a uv on the PATH, .venv is made first, by the first Python that serves: uv would replace one of another
# version, and itself in it.
define sync
	@set -e; \
	if command -v uv >/dev/null 2>&1; then \
	    uv=uv; \
	else \
	    uv=$(BIN)/uv; \
	    if [ ! -x $$uv ]; then \
	        right='import sys, venv, ensurepip; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))'; \
	        for python in $(PYTHON) python3 python3.14 python3.13 python3.12 python3.11 python; do \
	            if "$$python" -c "$$right" >/dev/null 2>&1; then found="$$python"; break; fi; \
	        done; \
	        if [ -z "$$found" ]; then \
	            echo "No Python 3.11 to 3.14 with venv was found. Install one (on Debian: apt install python3 python3-venv)," \
	                 "or name it: make demo PYTHON=/path/to/python3"; \
	            exit 1; \
	        fi; \
	        echo "Making .venv with $$("$$found" --version) and fetching uv ..."; \
	        "$$found" -m venv --clear .venv; \
	        $(BIN)/python -m pip install --quiet --disable-pip-version-check uv; \
	    fi; \
	fi; \
	echo "Installing the versions of uv.lock into .venv ..."; \
	"$$uv" sync --frozen --inexact --quiet $(1)
endef

$(BASE): pyproject.toml uv.lock
	$(call sync,--no-dev)
	@touch $@

$(INSTALLED): pyproject.toml uv.lock
	$(call sync)
	@touch $(BASE) $@
