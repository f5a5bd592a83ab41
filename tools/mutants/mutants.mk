# Small mistakes in the code that matters most, each of which some test must notice: tools/mutants/README.md.
# Without optimization, most of a test's time is not XLA's.
.PHONY: mutants mutants-sample

MUTANT_JOBS ?= 2
# Of the short form; another first one makes it try others.
MUTANTS_EVERY := 70
MUTANTS_FIRST ?= 0

mutants mutants-sample: export XLA_FLAGS := $(QUICKLY_COMPILED)

mutants: $(VENV)/.with-test
	$(BIN)/python -m tools.mutants --jobs $(MUTANT_JOBS)

mutants-sample: $(VENV)/.with-test
	$(BIN)/python -m tools.mutants --every $(MUTANTS_EVERY) --first $(MUTANTS_FIRST)
