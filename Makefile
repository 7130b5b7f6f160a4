# A name for each task of tools/dev.py, which does the work here and on Windows: `make demo`, `make test`.
PYTHON ?= python3
TASKS := demo test test-slow test-all check docs fuzz build setup clean

.PHONY: $(TASKS)
$(TASKS):
	@$(PYTHON) tools/dev.py $@
