"""What came of a calibration, as a record, as JSON and in words."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from compile.calibrate.agreement import FEW, Agreement
from compile.calibrate.preprocessing import Preprocessing, from_dict
from compile.calibrate.quantize import Noise

SHOWN = 5  # layers that are printed, the worst


@dataclass(frozen=True)
class CalibrationReport:
    """A calibrated network: what it was made with, how it agrees with the float one, and its layers, worst first.

    calibrating: how many pictures set the scales. remarks: sentences on what a user should know.
    """

    network: str
    bits: str
    rounding: str
    preprocessing: Preprocessing
    calibrating: int
    agreement: Agreement
    layers: tuple[Noise, ...]
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns JSON values, which `report_from_dict` reads; the share and its interval are for people."""
        low, high = self.agreement.interval
        agreement = {**asdict(self.agreement), "share": self.agreement.share, "low": low, "high": high}
        return {
            **asdict(self),
            "preprocessing": self.preprocessing.to_dict(),
            "agreement": agreement,
            "layers": [asdict(layer) for layer in self.layers],
            "remarks": list(self.remarks),
        }

    @property
    def lines(self) -> list[str]:
        """What is printed of it."""
        agreement = self.agreement
        low, high = (100 * share for share in agreement.interval)
        kind = "pictures held out" if agreement.held_out else "pictures, which are those that calibrated"
        lines = [
            f"{self.network}: {self.bits}, rounding {self.rounding}, {_pictures(self.calibrating)} calibrated",
            f"the float network's class on {agreement.same} of {agreement.pictures} {kind}: "
            f"{100 * agreement.share:.1f} % (95 % interval {low:.1f} to {high:.1f})",
        ]
        if agreement.pictures < FEW:
            lines.append(f"these are few pictures; with {FEW} or more the interval says more")
        lines.append("layers that lose most (decibels of signal over noise, alone and up to there; 6 are one bit):")
        width = max(len(layer.layer) for layer in self.layers[:SHOWN])
        lines += [f"  {v.layer:<{width}}  {v.alone:5.1f}  {v.so_far:5.1f}" for v in self.layers[:SHOWN]]
        return [*lines, *(f"note: {remark}" for remark in self.remarks)]


def report_from_dict(data: Mapping[str, Any]) -> CalibrationReport:
    """Returns the report that `to_dict` was called on; raises KeyError or TypeError for other JSON."""
    agreement = data["agreement"]
    return CalibrationReport(
        network=data["network"],
        bits=data["bits"],
        rounding=data["rounding"],
        preprocessing=from_dict(data["preprocessing"]),
        calibrating=data["calibrating"],
        agreement=Agreement(agreement["pictures"], agreement["same"], agreement["held_out"]),
        layers=tuple(Noise(**layer) for layer in data["layers"]),
        remarks=tuple(data["remarks"]),
    )


def _pictures(count: int) -> str:
    return "1 picture" if count == 1 else f"{count} pictures"
