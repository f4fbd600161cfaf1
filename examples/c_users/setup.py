"""Builds both examples: python setup.py build_ext --inplace (a C compiler and Cython needed)."""

from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

import fastact

extensions = [
    Extension(name, [source], include_dirs=[fastact.get_include()])
    for name, source in (("plain", "plain.c"), ("layer", "layer.pyx"))
]
# An editable installation of fastact hides its .pxd files from Cython.
packages = str(Path(fastact.__file__).resolve().parents[1])
setup(name="c_users", ext_modules=cythonize(extensions, include_path=[packages]))
