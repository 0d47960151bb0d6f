"""One process that writes every recorded port and variable to files.

Lava's Monitor hands its data over one element per message, 44,000 a second, and takes one process per variable. How
many ports and variables there are stands in EDGESSL_RECORDER as "PORTS,VARIABLES": Lava reads them from the class.
"""

import os

import numpy as np
from lava.magma.core.decorator import implements, requires, tag
from lava.magma.core.model.py.model import PyLoihiProcessModel
from lava.magma.core.model.py.ports import PyInPort, PyRefPort
from lava.magma.core.model.py.type import LavaPyType
from lava.magma.core.process.ports.ports import InPort, RefPort
from lava.magma.core.process.process import AbstractProcess
from lava.magma.core.resources import CPU
from lava.magma.core.sync.protocols.loihi_protocol import LoihiProtocol

PORTS, VARIABLES = map(int, os.environ["EDGESSL_RECORDER"].split(","))


class Recorder(AbstractProcess):
    """`ports` and `variables` are lists of (target, path of an .npy file with a row per step)."""

    def __init__(self, ports, variables):
        paths = {f"port{k}": path for k, (_, path) in enumerate(ports)}
        paths.update({f"variable{k}": path for k, (_, path) in enumerate(variables)})
        super().__init__(paths=paths)
        for k, (target, _) in enumerate(ports):
            setattr(self, f"port{k}", InPort(shape=target.shape))
        for k, (target, _) in enumerate(variables):
            setattr(self, f"variable{k}", RefPort(shape=target.shape))

    def connect(self, ports, variables):
        """After construction, when the ports have names."""
        for k, (target, _) in enumerate(ports):
            target.connect(getattr(self, f"port{k}"))
        for k, (target, _) in enumerate(variables):
            getattr(self, f"variable{k}").connect_var(target)


@implements(proc=Recorder, protocol=LoihiProtocol)
@requires(CPU)
@tag("fixed_pt")
class PyRecorder(PyLoihiProcessModel):
    """Ports are read in the spiking phase, variables after the learning phase."""

    for _k in range(PORTS):
        vars()[f"port{_k}"] = LavaPyType(PyInPort.VEC_DENSE, np.int32)
    for _k in range(VARIABLES):
        vars()[f"variable{_k}"] = LavaPyType(PyRefPort.VEC_DENSE, np.int32)

    def run_spk(self):
        """One step."""
        if self.time_step == 1:
            self.files = {name: np.load(path, mmap_mode="r+") for name, path in self.proc_params["paths"].items()}
        for k in range(PORTS):
            self.files[f"port{k}"][self.time_step - 1] = getattr(self, f"port{k}").recv()

    def post_guard(self):
        """Whether to run the phase after learning."""
        return VARIABLES > 0

    def run_post_mgmt(self):
        """One step."""
        for k in range(VARIABLES):
            self.files[f"variable{k}"][self.time_step - 1] = getattr(self, f"variable{k}").read()
