"""Every operator of the importer against TFLite's reference semantics, see tests/support/tflite_reference."""

import math

import numpy as np
import pytest

pytest.importorskip("tflite", reason="no schema: pip install tflite==2.18.0 flatbuffers")

from compile.tflite.errors import TfliteError
from tests.support.tflite_cases import (
    SHAPE,
    Case,
    constant_case,
    conv_case,
    depthwise_case,
    fully_connected_case,
    function_case,
    mean_case,
    picture,
    pool_case,
    quantized,
    two_maps_case,
)
from tests.support.tflite_reference import Quant

UNIT, SIGNED = Quant(1 / 256, -128), Quant(1 / 128, 0)
WIDE = Quant(4 / 127.5, -1)


def erf(x):
    return np.vectorize(math.erf)(x)


def prelu_case() -> Case:
    net, x, quant = picture()
    slopes, out = np.array([-100, 20, 127]), Quant(0.01, 3)
    result = quantized(net, (1, *SHAPE), out)
    net.operator("PRELU", [x, net.constant(slopes.reshape(1, 1, 3), "INT8", 0.01)], result)
    net.classifier(result)
    return Case(
        net,
        result,
        lambda codes: out.code(np.where(codes >= quant.zero, quant.real(codes), 0.01 * slopes * quant.real(codes))),
        share=0.99,
    )


def clamp_case(kind: str, limit: int) -> Case:
    net, x, quant = picture()
    result = quantized(net, (1, *SHAPE), quant)
    net.operator(kind, [x, net.constant([limit], "INT8", quant.scale, quant.zero)], result)
    net.classifier(result)
    function = np.minimum if kind == "MINIMUM" else np.maximum
    return Case(net, result, lambda codes: function(codes, limit), steps=0, share=1)


CASES = {
    "conv": conv_case,
    "conv stride": lambda: conv_case(stride=(2, 2), activation="RELU"),
    "conv uneven stride": lambda: conv_case(stride=(2, 1), activation="RELU6"),
    "conv valid": lambda: conv_case(padding="VALID", activation="RELU_N1_TO_1"),
    "conv dilated": lambda: conv_case(dilation=(2, 3)),
    "conv groups": lambda: conv_case(groups=2, channels=6),
    "conv int4": lambda: conv_case(bits=4),
    "conv uint8": lambda: conv_case("UINT8", stride=(2, 2), activation="RELU"),
    "depthwise": depthwise_case,
    "depthwise plain": lambda: depthwise_case(multiplier=1, stride=(2, 2)),
    "depthwise valid": lambda: depthwise_case(multiplier=3, padding="VALID"),
    "fully connected": fully_connected_case,
    "fully connected uint8": lambda: fully_connected_case("UINT8"),
    "fully connected transposed": lambda: fully_connected_case(over="transposed"),
    "fully connected pixels": lambda: fully_connected_case(over="channels"),
    "average pool": lambda: pool_case("INT8", True),
    "average pool uint8": lambda: pool_case("UINT8", True),
    "average pool valid": lambda: pool_case("INT8", True, (3, 3), (1, 1), "VALID", "RELU"),
    "average pool whole": lambda: pool_case("INT8", True, (7, 6), (1, 1), "VALID"),
    "max pool": lambda: pool_case("INT8", False),
    "max pool uint8": lambda: pool_case("UINT8", False, (3, 3), (1, 2)),
    "max pool activation": lambda: pool_case("INT8", False, activation="RELU"),
    "mean": mean_case,
    "add": lambda: two_maps_case("ADD"),
    "add relu": lambda: two_maps_case("ADD", "RELU"),
    "sub": lambda: two_maps_case("SUB"),
    "mul": lambda: two_maps_case("MUL"),
    "mul relu": lambda: two_maps_case("MUL", "RELU6"),
    "add constant": lambda: constant_case("ADD", [0.5, -1, 0.1]),
    "sub constant": lambda: constant_case("SUB", [0.5, -1, 0.1]),
    "constant sub": lambda: constant_case("SUB", [0.5, -1, 0.1], first=True),
    "mul constant": lambda: constant_case("MUL", [0.5, -1, 2]),
    "mul scalar": lambda: constant_case("MUL", [1.5]),
    "relu": lambda: function_case("RELU", lambda x: np.maximum(x, 0), Quant(0.011, -100)),
    "relu6": lambda: function_case("RELU6", lambda x: np.clip(x, 0, 6), Quant(0.03, -128), Quant(0.08, 20)),
    "relu n1 to 1": lambda: function_case("RELU_N1_TO_1", lambda x: np.clip(x, -1, 1), Quant(0.01, 3), WIDE),
    "leaky relu": lambda: function_case(
        "LEAKY_RELU", lambda x: np.where(x > 0, x, x * 0.3), Quant(0.009, 9), Alpha=0.3
    ),
    "logistic": lambda: function_case("LOGISTIC", lambda x: 1 / (1 + np.exp(-x)), UNIT, WIDE),
    "tanh": lambda: function_case("TANH", np.tanh, SIGNED, WIDE),
    "hard swish": lambda: function_case("HARD_SWISH", lambda x: x * np.clip(x + 3, 0, 6) / 6, Quant(0.03, -110), WIDE),
    "elu": lambda: function_case("ELU", lambda x: np.where(x > 0, x, np.exp(x) - 1), Quant(0.04, -100), WIDE),
    "gelu": lambda: function_case("GELU", lambda x: x / 2 * (1 + erf(x / 2**0.5)), Quant(0.04, -100), WIDE),
    "prelu": prelu_case,
    "minimum": lambda: clamp_case("MINIMUM", 40),
    "maximum": lambda: clamp_case("MAXIMUM", -30),
}


@pytest.mark.parametrize("name", ["prelu", "add constant", "mul scalar", "minimum"])
def test_a_constant_of_another_type_than_its_map_is_refused(name):
    case = CASES[name]()
    constant = case.net.tensors[2 if case.result == 1 else 1]
    assert constant.kind == "INT8" and constant.data is not None
    constant.kind, constant.data = "UINT8", constant.data.view(np.uint8)
    constant.zero_point = np.abs(constant.zero_point)
    with pytest.raises(TfliteError):
        case.graph()


@pytest.mark.parametrize("name", CASES)
def test_an_operator_gives_tflites_codes_but_for_a_step_where_it_rounds_twice(name):
    CASES[name]().check()
