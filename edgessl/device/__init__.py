"""The SDK that runs on the device: numpy, onnxruntime and the standard library, nothing else."""

from edgessl.device.bundle import Bundle, pack
from edgessl.device.drifting_classes import DriftingClasses
from edgessl.device.drifting_stream import DriftingStream
from edgessl.device.heads import Prediction
from edgessl.device.learner import Learner
from edgessl.device.loop import LearnReport
from edgessl.device.manifest import Manifest
from edgessl.device.noise import step_noise
from edgessl.device.normalize import RunningNormalization
from edgessl.device.runtime import EncoderRunner, FrozenEncoderRunner, SessionProfile, StepRunner
from edgessl.device.signature import Trust, read_public_key
from edgessl.device.softmax_regression import SoftmaxRegression
from edgessl.device.specs import Component, GraphSpec, InputSpec, MemberSpec, ParameterEntry, TensorSpec

__all__ = [
    "Bundle",
    "Component",
    "DriftingClasses",
    "DriftingStream",
    "EncoderRunner",
    "FrozenEncoderRunner",
    "GraphSpec",
    "InputSpec",
    "LearnReport",
    "Learner",
    "Manifest",
    "MemberSpec",
    "ParameterEntry",
    "Prediction",
    "RunningNormalization",
    "SessionProfile",
    "SoftmaxRegression",
    "StepRunner",
    "TensorSpec",
    "Trust",
    "pack",
    "read_public_key",
    "step_noise",
]
