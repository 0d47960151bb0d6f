"""When to learn, and how hard: hooks that the integrator fills, and energy profiles."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from edgessl.device.runtime import SessionProfile
from edgessl.errors import ConfigError


@dataclass(frozen=True)
class EnergyProfile:
    """`session`: threads and spinning; `duty`: the share of time, in (0, 1], that may be spent learning."""

    session: SessionProfile
    duty: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.duty <= 1:
            raise ConfigError(f"duty {self.duty}: expected a share in (0, 1]")


ENERGY_PROFILES = {
    "fast": EnergyProfile(SessionProfile(threads=2, spinning=True)),
    "balanced": EnergyProfile(SessionProfile(threads=1)),
    "saver": EnergyProfile(SessionProfile(threads=1), duty=0.1),
}


@dataclass
class Scheduler:
    """Says whether this is a moment to learn. A hook left out is no obstacle; one that raises is, and says so.

    `idle`: the device has nothing better to do; `mains_power`: it is not on battery; `celsius`: its temperature.
    Learning stops at `stop_celsius` and goes on below `resume_celsius`. `duty`: after learning for t seconds, the
    next t * (1 / duty - 1) are free of it. `clock`: monotonic seconds.
    """

    idle: Callable[[], bool] | None = None
    mains_power: Callable[[], bool] | None = None
    celsius: Callable[[], float] | None = None
    stop_celsius: float = 75.0
    resume_celsius: float = 65.0
    duty: float = 1.0
    clock: Callable[[], float] = time.monotonic
    _hot: bool = field(default=False, init=False)
    _rest_until: float = field(default=float("-inf"), init=False)

    def __post_init__(self) -> None:
        if not 0 < self.duty <= 1:
            raise ConfigError(f"duty {self.duty}: expected a share in (0, 1]")
        if self.resume_celsius > self.stop_celsius:
            raise ConfigError(f"resume_celsius {self.resume_celsius} is above stop_celsius {self.stop_celsius}")

    def obstacle(self) -> str:
        """Why not to learn now, in words; "" when nothing speaks against it."""
        try:
            if self.idle is not None and not self.idle():
                return "the device is busy"
            if self.mains_power is not None and not self.mains_power():
                return "on battery"
            if self.celsius is not None:
                now = float(self.celsius())
                self._hot = not now < (self.resume_celsius if self._hot else self.stop_celsius)  # NaN counts as hot
                if self._hot:
                    return f"{now:.0f} degrees Celsius"
        except Exception as error:  # the integrator's code: a sensor that fails must not stop observing
            return f"a hook failed: {error!r}"
        return "resting (duty cycle)" if self.clock() < self._rest_until else ""

    def learned(self, seconds: float) -> None:
        """Learning took so long."""
        self._rest_until = self.clock() + seconds * (1 / self.duty - 1)
