"""Packaging: the code of ``projects/htd`` is imported as ``htd``."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
INIT = (ROOT / "projects/htd/__init__.py").read_text()

setup(
    name="htd",
    version=re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)[1],
    description="HTD and its relatives: object detectors with task-specific features, on Detectron2",
    long_description="Detectron2 is not installed with this package; README.md has the two ways to do it.",
    license="Apache-2.0",
    python_requires=">=3.10,<3.14",
    packages=["htd", *(f"htd.{name}" for name in find_packages("projects/htd"))],
    package_dir={"htd": "projects/htd"},
    # Detectron2 is not listed: on PyPI its name is not its authors'. See tools/install_detectron2.py.
    install_requires=[
        "torch>=2.4",
        "torchvision>=0.19",
        "numpy>=1.26",
        "Pillow>=10",
        "opencv-python-headless>=4.10",
        "omegaconf>=2.2,<2.4",
        "hydra-core>=1.3,<1.4",
        "fvcore>=0.1.5,<0.1.6",
        "iopath>=0.1.7,<0.1.11",
        "pycocotools>=2.0.7",
        "timm>=1.0,<2",
        "matplotlib>=3.7",
        "tqdm>=4.60",
        "PyYAML>=6",
    ],
    extras_require={
        "eval": ["hotcoco>=1.3,<2"],
        "crop": ["shapely>=2"],
        "dev": ["pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "ruff>=0.17,<0.18", "setuptools>=69"],
    },
)
