"""Opens the network to adapt: a float ONNX file, or a checkpoint of one of training's own architectures."""

from dataclasses import dataclass
from pathlib import Path

from compile.calibrate.network import FloatNetwork
from compile.calibrate.preprocessing import Preprocessing
from compile.calibrate.presets import for_size
from compile.calibrate.simplify import read_float
from compile.qdq.normalization import Normalization
from train.adapt.checkpoint import float_network
from train.network.architectures import ARCHITECTURES, architecture
from train.network.network import Network
from train.network.weights import load_weights
from train.settings.options import SettingsError

CHECKPOINTS = (".pt", ".th", ".pth", ".safetensors")


@dataclass(frozen=True, eq=False)
class AdaptSource:
    """A float network with what it sees of a photo; crop: see runtime.pictures.arrays.framed."""

    network: FloatNetwork
    normalization: Normalization
    preprocessing: Preprocessing | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture."""
        _, _, height, width = self.network.shapes[self.network.picture]
        return height, width

    @property
    def classes(self) -> int:
        """How many classes it tells apart."""
        size = 1
        for side in self.network.shapes[self.network.output][1:]:
            size *= side
        return size

    @property
    def crop(self) -> float | None:
        """The part of a photo's short side that it looks at; None for all."""
        return None if self.preprocessing is None else self.preprocessing.crop


def open_source(
    path: Path,
    *,
    arch: str | None = None,
    classes: int = 10,
    size: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> AdaptSource:
    """Opens a file. Raises SettingsError, CalibrationError or ValueError with what was expected of it.

    arch, classes: of a checkpoint, whose architecture is one of training's; size: side of the picture where the file
    leaves it open, 32 for checkpoints. preprocessing: of ONNX files, which do not tell it.
    """
    if path.suffix in CHECKPOINTS:
        return _open_checkpoint(path, arch, classes, size or 32)
    if path.suffix != ".onnx":
        raise SettingsError(f"{path}: expected a float ONNX file or a checkpoint ({', '.join(CHECKPOINTS)})")
    if not path.is_file():
        raise SettingsError(f"{path}: expected a float ONNX file, but there is no such file")
    if preprocessing is None:
        raise SettingsError(f"{path}: expected --preprocess: an ONNX file does not say how it sees pictures")
    network = read_float(path, size)
    _, _, height, width = network.shapes[network.picture]
    own, _ = for_size(preprocessing, (height, width))
    return AdaptSource(network, own.normalization, own)


def _open_checkpoint(path: Path, arch: str | None, classes: int, size: int) -> AdaptSource:
    if arch not in ARCHITECTURES:
        raise SettingsError(f"{path}: expected --arch with one of {', '.join(ARCHITECTURES)}, got {arch}")
    if not path.is_file():
        raise SettingsError(f"{path}: expected a checkpoint, but there is no such file")
    net = Network(architecture(arch, (size, size, 3), classes), {})
    load_weights(net, path)
    return AdaptSource(*float_network(net.eval()))
