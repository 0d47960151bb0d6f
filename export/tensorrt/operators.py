"""What TensorRT's ONNX parser takes, as data: operators, types, and the inputs that must be constants.

Sources: NVIDIA's operator table (onnx-tensorrt, docs/operators.md) and the answers of the parser itself (TensorRT-RTX
1.7.1.116, opset 20, 2026-11-27; `tests/export/test_export_tensorrt_native.py` asks it again).
"""

from __future__ import annotations

from onnx import TensorProto

OPSETS = range(9, 26)  # the parser's oldest, and the newest of TensorRT 11

OPERATORS = frozenset(
    """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization BlackmanWindow Cast
    CastLike Ceil Celu Clip Concat Constant ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace
    DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike Flatten Floor GRU Gather GatherElements
    GatherND Gelu Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    GroupNormalization HammingWindow HannWindow HardSigmoid HardSwish Hardmax Identity InstanceNormalization IsInf IsNaN
    LRN LSTM LayerNormalization LeakyRelu Less LessOrEqual Log LogSoftmax LpNormalization LpPool MatMul Max MaxPool Mean
    MeanVarianceNormalization Min Mish Mod Mul Neg Not OneHot Or PRelu Pad Pow QuantizeLinear RMSNormalization RNN Range
    Reciprocal ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum
    ReduceSumSquare Relu Reshape Resize ReverseSequence RoiAlign Round STFT ScatterElements ScatterND Selu Shape Shrink
    Sigmoid Sign Sin Sinh Size Slice Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Swish Tan Tanh
    ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample Where Xor
    """.split()  # noqa: SIM905 - a word list
)
"""Control flow (its branches would have to be checked too), random numbers (their seed is ignored) and results whose
shape depends on values (NonZero: refused by the RTX parser) are left out on purpose."""

TYPES = frozenset(
    {
        TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE, TensorProto.INT32,
        TensorProto.INT64, TensorProto.INT8, TensorProto.INT4, TensorProto.BOOL, TensorProto.UINT8,
        TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1,
    }
)  # fmt: skip
"""DOUBLE is narrowed to FLOAT where it is read; UINT8 only comes in and out, through Cast."""

QUANTIZED = frozenset({TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1})
MOVES_UINT8 = frozenset({"Cast", "Identity"})

CONSTANT_INPUTS: dict[str, tuple[tuple[int, str], ...]] = {
    **{f"Reduce{kind}": ((1, "axes"),) for kind in
       ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")},
    "Squeeze": ((1, "axes"),),
    "Unsqueeze": ((1, "axes"),),
    "Slice": ((3, "axes"),),
    "Pad": ((3, "axes"),),
    "CumSum": ((1, "axis"),),
    "OneHot": ((1, "depth"),),
    "TopK": ((1, "K"),),
    "Resize": ((2, "scales"),),
    "Dropout": ((2, "training_mode"),),
    "STFT": ((1, "frame_step"), (3, "frame_length")),
    "QuantizeLinear": ((1, "y_scale"), (2, "y_zero_point")),
    "DequantizeLinear": ((1, "x_scale"), (2, "x_zero_point")),
}  # fmt: skip
"""operator -> (input's place, its name): inputs that must be known when the engine is built."""
