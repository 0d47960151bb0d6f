"""Federations in this process: Flower's own apps and records, no network; at once, or by a virtual clock."""

from federated.simulation.clock import VirtualGrid
from federated.simulation.fleet import Device, Fleet
from federated.simulation.grid import FIRST_NODE, LocalGrid
from federated.simulation.run import federate_in_process, run_local

__all__ = ["FIRST_NODE", "Device", "Fleet", "LocalGrid", "VirtualGrid", "federate_in_process", "run_local"]
