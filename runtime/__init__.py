"""Runs a bundle on a device: a picture's quality picks its precompiled variant. Needs only numpy and apache-tvm-ffi."""

from runtime.bundle.opened import Bundle, BundleError, open_bundle
from runtime.engine import Engine, Prediction

__all__ = ["Bundle", "BundleError", "Engine", "Prediction", "open_bundle"]
