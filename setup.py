"""Installs bnas_larq, with its recipes and its published networks as data packages.

The dependency bounds are the set that plain `pip install` resolves and that works together; each
trap is explained beside the line that avoids it.
"""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent

INSTALL_REQUIRES = [
    # Larq needs Keras 2. From 2.16 on TensorFlow brings Keras 3, and tf-keras is Keras 2 under its
    # own name; tf-keras a.b requires tensorflow a.b, so the resolver keeps the pair together.
    # larq-zoo pins protobuf<3.21, which no TensorFlow from 2.20 on accepts.
    "tensorflow>=2.16,<2.20",
    "tf-keras>=2.16,<2.20",
    # larq requires NumPy 1; named here because we use NumPy ourselves.
    "numpy>=1.26,<2",
    "larq>=0.13.3,<1",
    # Installs a top-level package `tests`: never import from `tests` in this project.
    "larq-zoo>=2.3.1,<3",
    # larq-zoo's zookeeper breaks with typeguard 4.
    "typeguard<3",
    # Untried on Windows; without it everything but `bnas-larq export` works.
    'larq-compute-engine>=0.16,<1; platform_system != "Windows"',
    "tensorflow-datasets>=4.9.6,<5",
    # tensorflow-datasets imports it on Python 3.11 without requiring it.
    "importlib_resources",
    "keras-tuner>=1.4.7,<2",
    "click>=8,<9",
    "pydantic>=2,<3",
    "PyYAML>=6,<7",
    "rich>=13",
    "matplotlib>=3.7,<4",
    "scikit-learn>=1.2,<2",
    "Pillow>=10",
    "h5py>=3.8,<4",
    "safetensors>=0.4,<1",
    # Pages and cards, locks, downloads.
    "jinja2>=3,<4",
    "filelock>=3.32,<5",  # earlier releases empty the file that they lock
    "pooch>=1.8,<2",
    "requests>=2.28,<3",
    "packaging>=21",
]

EXTRAS_REQUIRE = {
    # Only for importing `.pth.tar` checkpoints; from 2.6 on `weights_only` loading is safe
    # (CVE-2025-32434).
    "torch": ["torch>=2.6"],
    "test": [
        "pytest>=7.4",
        # Two tests at a time: most of one is Python that traces graphs.
        "pytest-xdist>=3.5",
        "ruff>=0.4",
        "black>=24",
        # The test of the wheel builds it without a network, so the build's own tools must be
        # installed: setuptools from 64 on knows editable installs of mapped folders (PEP 660), and
        # before 70.1 it needs `wheel`.
        "setuptools>=64",
        "wheel",
    ],
}

# recipes/ and zoo/ hold data, no Python. They are installed as `bnas_larq/_recipes` and
# `bnas_larq/_zoo`; bnas_larq/resources.py finds them there, or here in a checkout.
DATA_PACKAGES = {"bnas_larq._recipes": "recipes", "bnas_larq._zoo": "zoo"}
DATA_FILES = [f"**/*.{suffix}" for suffix in ("yaml", "json", "md", "h5", "csv", "png", "svg")]

setup(
    name="bnas-larq",
    version="0.1.0",
    description="Search, train and deploy networks whose weights and activations are single bits",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords="binarized neural networks, neural architecture search, larq, tensorflow, keras",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
    ],
    python_requires=">=3.10,<3.13",
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    # Only our own package: plain find_packages() would ship `tests` too.
    packages=[*find_packages(include=["bnas_larq", "bnas_larq.*"]), *DATA_PACKAGES],
    package_dir=DATA_PACKAGES,
    package_data={
        "bnas_larq": ["templates/*"],
        **{name: DATA_FILES for name in DATA_PACKAGES},
    },
    include_package_data=False,
    zip_safe=False,
    entry_points={"console_scripts": ["bnas-larq = bnas_larq.cli.main:main"]},
)
