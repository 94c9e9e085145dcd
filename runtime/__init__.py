"""Runs a bundle on a device: looks at each picture, picks its precompiled variant. Needs numpy and apache-tvm-ffi only."""

from runtime.bundle import Bundle, BundleError, open_bundle
from runtime.engine import Engine, Prediction

__all__ = ["Bundle", "BundleError", "Engine", "Prediction", "open_bundle"]
