"""Runs a bundle on a device: the quality of each picture picks its variant. Needs numpy and apache-tvm-ffi alone."""

from runtime.bundle.opened import Bundle, open_bundle
from runtime.engine import Engine
from runtime.fields import BundleError
from runtime.prediction import Prediction
from runtime.version import VERSION as __version__

__all__ = ["Bundle", "BundleError", "Engine", "Prediction", "__version__", "open_bundle"]
