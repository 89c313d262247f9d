# make demo   everything from nothing: environment, toy data, training, evaluation, pictures
# make test   lint and tests (without the slow ones); `make test-slow` runs the rest
# Another Python: make setup PYTHON=python3.12. Another torch: make setup TORCH="torch==2.11.0 torchvision==0.26.0".

READY := .venv/.ready
PYTEST := OMP_NUM_THREADS=1 .venv/bin/python -m pytest -n 2 --dist loadfile

.PHONY: setup demo test test-slow clean

setup: $(READY)

$(READY): setup.py tools/setup_env.sh tools/install_detectron2.py $(wildcard tools/pure_detectron2/*.py)
	PYTHON="$(PYTHON)" TORCH="$(TORCH)" sh tools/setup_env.sh
	touch $@

demo: setup
	.venv/bin/python tools/demo.py

test: setup
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	$(PYTEST) -m "not slow"

test-slow: setup
	$(PYTEST) -m slow

clean:
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .hypothesis
