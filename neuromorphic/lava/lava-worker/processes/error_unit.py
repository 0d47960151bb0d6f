"""The predictive-coding error unit as a Lava process; its arithmetic is `neuromorphic.network.ErrorUnit`'s."""

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyOutPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, OutPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.process.variable import Var
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol


class ErrorUnit(AbstractProcess):
    """a_in is the prediction, a_target the target; u and v are their traces p and t."""

    def __init__(self, *, shape, decay, shift):
        super().__init__(shape=shape, decay=decay, shift=shift)
        self.a_in, self.a_target = InPort(shape=shape), InPort(shape=shape)
        self.s_out, self.s_out_y0 = OutPort(shape=shape), OutPort(shape=shape)
        self.s_out_y1, self.s_out_y2, self.s_out_y3 = (OutPort(shape=shape) for _ in range(3))
        self.u, self.v = Var(shape=shape, init=0), Var(shape=shape, init=0)


@implements(proc=ErrorUnit, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyErrorUnitFixed(PyLoihiProcessModel):
    """Integer model."""

    a_in: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    a_target: PyInPort = LavaPyType(PyInPort.VEC_DENSE, np.int32, precision=24)
    s_out: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=8)
    s_out_y0: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, bool, precision=1)
    s_out_y1: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    s_out_y2: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    s_out_y3: PyOutPort = LavaPyType(PyOutPort.VEC_DENSE, np.int32, precision=7)
    u: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)
    v: np.ndarray = LavaPyType(np.ndarray, np.int32, precision=24)

    def _leak(self, register):
        product = register.astype(np.int64) * (4096 - self.proc_params["decay"])
        return np.sign(product) * (np.abs(product) >> 12)

    def run_spk(self):
        """One step."""
        self.u[:] = self._leak(self.u) + self.a_in.recv()
        self.v[:] = self._leak(self.v) + self.a_target.recv()
        error = (self.v - self.u) >> self.proc_params["shift"]
        self.s_out.send(np.clip(error, -127, 127))
        self.s_out_y0.send(error != 0)
        self.s_out_y1.send(np.clip(error, 0, 127))
        self.s_out_y2.send(np.clip(-error, 0, 127))
        self.s_out_y3.send(np.zeros(error.shape, np.int32))
