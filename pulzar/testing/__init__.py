"""What tests give to Pulzar in place of the world. Shipped; imported by nothing in the product."""

from pulzar.testing.clock import ManualClock
from pulzar.testing.disk import SimulatedDisk
from pulzar.testing.faults import OPERATIONS, Fault, FaultPlan, Killed, at_point

__all__ = [
    "OPERATIONS",
    "Fault",
    "FaultPlan",
    "Killed",
    "ManualClock",
    "SimulatedDisk",
    "at_point",
]
