"""Runs one integer network in Lava's fixed-point simulator. argv: a job folder with job.json and .npy arrays.

The border is files: no Lava type crosses it. Every recorded array lies in the folder afterwards, and done.json says
what ran. An exception in any of Lava's processes is written to error.txt and ends the whole group: Lava itself would
hang. Written for Python 3.10; edgessl's own interpreter never imports it.
"""

import json
import os
import platform
import signal
import sys
import threading
import time
import traceback

import numpy as np

HERE = os.path.dirname(os.path.abspath(__file__))
SIGNS = {"mixed": "MIXED", "excitatory": "EXCITATORY", "inhibitory": "INHIBITORY"}


def enable_newer_python():
    """Lava 0.10.0 on Python 3.11 and later: one file's dataclass defaults, mended as it is imported."""
    if sys.version_info < (3, 11):  # noqa: UP036 - edgessl's lowest Python is not this file's
        return
    import importlib.util

    name = "lava.magma.compiler.var_model"
    spec = importlib.util.find_spec(name)
    source = spec.loader.get_data(spec.origin).decode()
    source = source.replace("import dataclass, InitVar", "import dataclass, field, InitVar")
    source = source.replace("ByteEncoder = ByteEncoder()", "ByteEncoder = field(default_factory=ByteEncoder)")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    exec(compile(source, spec.origin, "exec"), module.__dict__)  # noqa: S102 - Lava's own file
    sys.modules["lava.magma.compiler"].var_model = module


def end_group_on_error(folder):
    """Make the first exception of any Lava process end this worker with its traceback on file."""
    from lava.magma.runtime.message_infrastructure import multiprocessing as infrastructure

    leader = os.getpid()

    def run(self):
        try:
            infrastructure.mp.Process.run(self)
            self._cconn.send(None)
        except BaseException:
            with open(os.path.join(folder, "error.txt"), "a") as out:
                out.write(traceback.format_exc())
            if os.getpgrp() == leader:
                os.killpg(leader, signal.SIGKILL)
            raise

    infrastructure.SystemProcess.run = run


def end_group_with_parent():
    """End this worker and its children when the process that asked for it is gone: Lava's own would stay for ever."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(0.5)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def build_rule(rule):
    """Lava's learning rule of the JSON one."""
    from lava.magma.core.learning.learning_rule import Loihi2FLearningRule, Loihi3FLearningRule

    keys = ["x1_impulse", "x1_tau", "x2_impulse", "x2_tau"]
    if not rule["three_factor"]:
        keys += ["y1_impulse", "y1_tau", "y2_impulse", "y2_tau", "y3_impulse", "y3_tau"]
    given = {key: rule[key] for key in keys}
    kind = Loihi3FLearningRule if rule["three_factor"] else Loihi2FLearningRule
    return kind(dw=rule["dw"] or None, dt=rule["dt"] or None, t_epoch=rule["t_epoch"], rng_seed=rule["seed"], **given)


def build_connection(c, folder):
    """The Dense, DelayDense or LearningDense of a connection."""
    from lava.magma.core.learning.constants import GradedSpikeCfg
    from lava.proc.dense.process import DelayDense, Dense, LearningDense
    from lava.utils.weightutils import SignMode

    weights = np.load(os.path.join(folder, c["weights"])).astype(np.int32)
    given = {
        "weights": weights,
        "weight_exp": c["exponent"],
        "num_weight_bits": c["bits"],
        "num_message_bits": c["payload_bits"],
        "sign_mode": SignMode[SIGNS[c["sign"]]],
    }
    if c["rule"] is not None:
        graded = {"impulse": 0, "overwrite": 1, "add": 2, "add_overflow": 3}[c["rule"]["graded"]]
        return LearningDense(learning_rule=build_rule(c["rule"]), graded_spike_cfg=GradedSpikeCfg(graded), **given)
    if c["delays"] is not None:
        return DelayDense(delays=np.load(os.path.join(folder, c["delays"])).astype(int), **given)
    return Dense(**given)


def build_population(p, folder):
    """The neuron process of a population."""
    from lava.proc.graded.process import GradedReluVec, GradedVec
    from lava.proc.lif.process import LIF, LIFReset, TernaryLIF
    from processes.error_unit import ErrorUnit

    shape, kind = (p["size"],), p["kind"]
    if kind == "graded":
        return (GradedReluVec if p["relu"] else GradedVec)(shape=shape, vth=p["vth"])
    if kind == "error":
        return ErrorUnit(shape=shape, decay=p["decay"], shift=p["shift"])
    given = {"shape": shape, "du": p["du"], "dv": p["dv"]}
    for ours, theirs in (("bias", "bias_mant"), ("bias_exp", "bias_exp")):
        value = p[ours]
        given[theirs] = np.load(os.path.join(folder, value)) if isinstance(value, str) else value
    if kind == "ternary":
        return TernaryLIF(vth_hi=p["vth"], vth_lo=p["vth_lo"], **given)
    if p["reset_interval"]:
        return LIFReset(vth=p["vth"], reset_interval=p["reset_interval"], reset_offset=p["reset_offset"], **given)
    return LIF(vth=p["vth"], **given)


def build(job, folder):
    """Every process by name, connected."""
    from lava.proc.io.source import RingBuffer

    parts = {}
    for i in job["inputs"]:
        parts[i["name"]] = RingBuffer(data=np.load(os.path.join(folder, i["data"])).astype(np.int32))
    for p in job["populations"]:
        parts[p["name"]] = build_population(p, folder)
    synapses = {}
    for c in job["connections"]:
        synapse = synapses[c["name"]] = build_connection(c, folder)
        post = parts[c["post"]]
        parts[c["pre"]].s_out.connect(synapse.s_in)
        synapse.a_out.connect(post.a_in if c["port"] == "a" else post.a_target)
        if c["rule"] is not None and not c["rule"]["three_factor"]:
            post.s_out.connect(synapse.s_in_bap)
        for trace, source in c["modulators"].items():
            name, _, port = source.partition(".")
            out = getattr(parts[name], "s_out_" + port) if port else parts[name].s_out
            out.connect(synapse.s_in_bap if trace == "y0" else getattr(synapse, "s_in_" + trace))
    return parts, synapses


def attach_recorder(job, folder, parts, synapses):
    """One recorder for every array that was asked for; its files are filled as Lava runs."""

    def empty(what, name, shape):
        path = os.path.join(folder, what + "." + name + ".npy")
        np.save(path, np.zeros((job["steps"], *shape), np.int32))
        return path

    asked = job["record"]
    ports = [(parts[name].s_out, empty("spikes", name, parts[name].s_out.shape)) for name in asked["spikes"]]
    wanted = [(what, name, getattr(parts[name], what)) for what in "uv" for name in asked[what]]
    wanted += [("weights", name, synapses[name].weights) for name in asked["weights"]]
    wanted += [("tags", name, synapses[name].tag_1) for name in asked["tags"]]
    variables = [(var, empty(what, name, var.shape)) for what, name, var in wanted]
    os.environ["EDGESSL_RECORDER"] = f"{len(ports)},{len(variables)}"
    from processes.recorder import Recorder

    Recorder(ports, variables).connect(ports, variables)


def main(folder):
    """Run the job in `folder`."""
    with open(os.path.join(folder, "job.json")) as source:
        job = json.load(source)
    enable_newer_python()
    end_group_on_error(folder)
    end_group_with_parent()
    from importlib.metadata import version

    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg

    parts, synapses = build(job, folder)
    attach_recorder(job, folder, parts, synapses)
    part = parts[job["populations"][-1]["name"]]  # any will do: the recorder connects them all
    config = Loihi2SimCfg(select_tag="fixed_pt")
    part.run(condition=RunSteps(num_steps=1), run_cfg=config)  # compiles and forks; not part of the speed
    start = time.perf_counter()
    if job["steps"] > 1:
        part.run(condition=RunSteps(num_steps=job["steps"] - 1), run_cfg=config)
    seconds = time.perf_counter() - start
    for c in job["connections"]:
        if c["rule"] is not None:
            np.save(os.path.join(folder, "final." + c["name"] + ".npy"), synapses[c["name"]].weights.get())
    part.stop()
    versions = {"lava": version("lava-nc"), "numpy": np.__version__}
    with open(os.path.join(folder, "done.json"), "w") as out:
        json.dump({"seconds": seconds, "python": platform.python_version(), **versions}, out)


if __name__ == "__main__":
    sys.path.insert(0, HERE)
    main(sys.argv[1])
