"""Which operators are quantized, and which tensors carry levels between them."""

from __future__ import annotations

from dataclasses import dataclass

import onnx

from export.quantize.floating import FloatGraph, attribute

PASSING = ("Relu",)  # between a convolution and its levels: absorbed by the rounding


@dataclass(frozen=True)
class Layer:
    """A convolution or matrix product with constant weights.

    Attributes:
        node: of the graph.
        weight, bias: names of the constants; no bias is "".
        axis: of the output channels in the weight.
    """

    node: onnx.NodeProto
    weight: str
    bias: str
    axis: int

    @property
    def input(self) -> str:
        """The activation it reads."""
        return str(self.node.input[0])

    @property
    def output(self) -> str:
        """What it gives, before any ReLU."""
        return str(self.node.output[0])

    @property
    def name(self) -> str:
        """What figures call it: the name of what it gives, which quantization keeps."""
        return self.output


def layers(graph: FloatGraph) -> list[Layer]:
    """Every Conv, Gemm and MatMul of the graph whose second operand is a constant, in order."""
    found = []
    for node in graph.nodes:
        if len(node.input) < 2 or node.input[1] not in graph.constants or node.input[0] in graph.constants:
            continue
        bias = node.input[2] if len(node.input) > 2 and node.input[2] in graph.constants else ""
        if node.op_type == "Conv":
            found.append(Layer(node, node.input[1], bias, 0))
        elif node.op_type == "Gemm" and (len(node.input) == 2 or bias) and not attribute(node, "transA", 0):
            found.append(Layer(node, node.input[1], bias, 0 if attribute(node, "transB", 0) else 1))
        elif node.op_type == "MatMul" and graph.constants[node.input[1]].ndim == 2:
            found.append(Layer(node, node.input[1], "", 1))
    return found


def residual_adds(graph: FloatGraph) -> list[onnx.NodeProto]:
    """Every Add of two activations that come from convolutions, directly or through ReLUs and other such sums."""
    found: list[onnx.NodeProto] = []
    sums: set[str] = set()

    def convolutional(tensor: str) -> bool:
        node = graph.producer(tensor)
        while node is not None and node.op_type in PASSING:
            node = graph.producer(node.input[0])
        return node is not None and (node.op_type == "Conv" or node.output[0] in sums)

    for node in graph.nodes:
        if node.op_type == "Add" and all(convolutional(name) for name in node.input):
            found.append(node)
            sums.add(node.output[0])
    return found


def activated(graph: FloatGraph, tensor: str) -> str:
    """`tensor`, or the ReLU of it where nothing else reads it: the tensor whose levels absorb the ReLU."""
    consumers = graph.consumers(tensor)
    if tensor != graph.output and len(consumers) == 1 and consumers[0].op_type in PASSING:
        return str(consumers[0].output[0])
    return tensor
