"""TensorRT: whether a graph is legal there (no GPU needed), engines, and three ways to run a graph on NVIDIA's GPUs.

from export.tensorrt.legality import check
from export.tensorrt.builder import EngineSettings, build_engine
from export.tensorrt.doors import open_door
"""
