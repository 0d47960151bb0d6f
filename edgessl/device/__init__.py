"""The SDK that runs on the device: numpy, onnxruntime and the standard library, nothing else."""

from edgessl.device.bundle.archive import Bundle, pack
from edgessl.device.bundle.manifest import Manifest
from edgessl.device.bundle.signature import Trust, read_public_key
from edgessl.device.bundle.specs import Component, GraphSpec, InputSpec, MemberSpec, ParameterEntry, TensorSpec
from edgessl.device.drift.classes import DriftingClasses
from edgessl.device.drift.normalize import RunningNormalization
from edgessl.device.drift.stream import DriftingStream
from edgessl.device.heads.few_label import Prediction
from edgessl.device.heads.softmax_regression import SoftmaxRegression
from edgessl.device.learner import Learner
from edgessl.device.loop import LearnReport
from edgessl.device.noise import step_noise
from edgessl.device.requantize.encoder import Followed, FollowingEncoder
from edgessl.device.runtime import EncoderRunner, FrozenEncoderRunner, SessionProfile, StepRunner

__all__ = [
    "Bundle",
    "Component",
    "DriftingClasses",
    "DriftingStream",
    "EncoderRunner",
    "Followed",
    "FollowingEncoder",
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
