"""What operations cost, by published tables: each with its source, process node and grade of evidence.

    priced = price(counted, table("loihi1-2018-presilicon"), leave_out=("host_write", "host_read"))
    priced.total, priced.band          # joules, and what they become where every price is at its lowest and highest
    sensitivity(counted, table(...))   # how the total moves with each price alone

A table does not know everything. What a ledger counts and a table does not price is refused, never taken for zero: the
total raises until the terms are left out by name, and then the result says so. No table here is Loihi 2's: Intel has
published no energies of its operations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgessl.errors import ConfigError
from neuromorphic.energy import Ledger

GRADES = ("measured", "simulated", "derived")
PICO = 1e-12


@dataclass(frozen=True)
class Price:
    """Picojoules of one operation: as published, and the range of what the source leaves open."""

    nominal: float
    low: float
    high: float


@dataclass(frozen=True)
class PriceTable:
    """Prices from one source.

    Attributes:
        name: how it is asked for.
        prices: ledger term -> price; a term that is absent is not known.
        node: process of the chip.
        source: publication.
        grade: "measured" on silicon, "simulated" before it, or "derived" from figures of parts.
        ignores: ledger terms that this table's prices hold already, or that its chip does not have.
        says: what a total by this table is, in words that stand beside every figure.
    """

    name: str
    prices: Mapping[str, Price]
    node: str
    source: str
    grade: str
    ignores: tuple[str, ...]
    says: str


@dataclass(frozen=True)
class Line:
    """One term of a ledger, priced; joules of all samples together, None where the table does not know the term."""

    term: str
    count: int
    joules: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Priced:
    """A ledger by a table.

    Attributes:
        ledger: what was priced.
        table: by what.
        lines: the ledger's terms, those left out excepted.
        left_out: terms that the caller left out, by name.
    """

    ledger: Ledger
    table: PriceTable
    lines: tuple[Line, ...]
    left_out: tuple[str, ...]

    @property
    def unknown(self) -> tuple[str, ...]:
        """Terms that occurred and that the table does not know."""
        return tuple(line.term for line in self.lines if line.joules is None)

    @property
    def total(self) -> float:
        """Joules per sample.

        Raises:
            ConfigError: a term that occurred has no price.
        """
        self._refuse()
        return sum(line.joules or 0.0 for line in self.lines) / self.ledger.samples

    @property
    def band(self) -> tuple[float, float]:
        """Joules per sample with every price at its lowest and at its highest; errors as in `total`."""
        self._refuse()
        low, high = sum(line.low or 0.0 for line in self.lines), sum(line.high or 0.0 for line in self.lines)
        return low / self.ledger.samples, high / self.ledger.samples

    def _refuse(self) -> None:
        if self.unknown:
            raise ConfigError(
                f"{self.table.name} has no price for {', '.join(self.unknown)}, which occurred"
                f" ({', '.join(f'{self.ledger.counts[t]:,}' for t in self.unknown)} times): a total would take them for"
                f" free. Leave them out by name (leave_out), or choose a table that knows them"
            )

    def to_json(self) -> dict[str, Any]:
        """Plain values; totals are None where they are refused."""
        known = not self.unknown
        per = self.ledger.samples
        return {
            "subject": self.ledger.subject,
            "table": self.table.name,
            "says": self.table.says,
            "grade": self.table.grade,
            "node": self.table.node,
            "source": self.table.source,
            "joules_per_sample": self.total if known else None,
            "band_joules_per_sample": list(self.band) if known else None,
            "unknown": list(self.unknown),
            "left_out": list(self.left_out),
            "terms": {
                line.term: {
                    "count": line.count,
                    "joules_per_sample": None if line.joules is None else line.joules / per,
                }
                for line in self.lines
            },
        }


def price(ledger: Ledger, table: PriceTable, leave_out: Sequence[str] = ()) -> Priced:
    """Price every term of `ledger` that `table` does not ignore.

    Args:
        ledger: counts.
        table: prices.
        leave_out: terms to leave out of the total; the result names them.

    Raises:
        ConfigError: a term to leave out does not occur in the ledger or is ignored by the table anyway.
    """
    counted = {term: n for term, n in ledger.counts.items() if n and term not in table.ignores}
    if odd := sorted(set(leave_out) - set(counted)):
        raise ConfigError(f"cannot leave out {odd[0]!r}; {table.name} counts {', '.join(counted)} of this ledger")
    lines = []
    for term, count in counted.items():
        if term in leave_out:
            continue
        known = table.prices.get(term)
        values = (None,) * 3 if known is None else (known.nominal, known.low, known.high)
        nominal, low, high = (None if v is None else v * PICO * count for v in values)
        lines.append(Line(term, count, nominal, low, high))
    return Priced(ledger, table, tuple(lines), tuple(leave_out))


def sensitivity(
    ledger: Ledger, table: PriceTable, leave_out: Sequence[str] = (), factor: float = 2.0
) -> dict[str, tuple[float, float]]:
    """Joules per sample where one price alone is divided and multiplied by `factor`, the widest range first.

    Raises:
        ConfigError: the factor is below 1, or the total is refused (see `Priced.total`).
    """
    if factor < 1:
        raise ConfigError(f"factor must be 1 or more, found {factor}")
    priced = price(ledger, table, leave_out)
    total = priced.total
    found = {}
    for line in priced.lines:
        own = (line.joules or 0.0) / ledger.samples
        found[line.term] = (total - own + own / factor, total - own + own * factor)
    return dict(sorted(found.items(), key=lambda item: item[1][0] - item[1][1]))


def table(name: str, memory_bytes: int = 0) -> PriceTable:
    """A price table by name.

    Args:
        name: one of TABLES.
        memory_bytes: of the ledger to price; decides which memory the table's bytes come from, where it has memories.

    Raises:
        ConfigError: no such table.
    """
    if name not in TABLES:
        raise ConfigError(f"price table {name!r}; there are {', '.join(TABLES)}")
    return _horowitz_int8(memory_bytes) if name == "horowitz-45nm-int8" else _FIXED[name]


def _exact(picojoules: float) -> Price:
    return Price(picojoules, picojoules, picojoules)


def _horowitz_int8(memory_bytes: int) -> PriceTable:
    """Arithmetic and memory of a plain 45 nm processor; weights and states lie in the smallest memory that holds them.

    An int8 product is 0.2 pJ and its sum 0.03 (8 bits) to 0.1 pJ (32 bits); a neuron update is two 32-bit products and
    three sums, a spike a 32-bit index written and read;
    64 bits of SRAM cost 10, 20 or 100 pJ (8 KB, 32 KB, 1 MB), of DRAM 1,300 to 2,600 pJ.
    """
    low, nominal, high, memory = 1300 / 8, 1950 / 8, 2600 / 8, "DRAM"
    for size, name, picojoules in ((1 << 13, "8 KB", 10), (1 << 15, "32 KB", 20), (1 << 20, "1 MB", 100)):
        if memory_bytes <= size:
            low = nominal = high = picojoules / 8
            memory = f"{name} SRAM"
            break
    byte = Price(nominal, low, high)
    update = _exact(2 * 3.1 + 3 * 0.1)
    return PriceTable(
        "horowitz-45nm-int8",
        {
            "multiply_accumulate": Price(0.3, 0.23, 0.3),
            "synaptic_operation": Price(0.1, 0.03, 0.1),
            "graded_operation": Price(0.3, 0.23, 0.3),
            "driven_update": update,
            "idle_update": update,
            "spike": Price(8 * nominal, 8 * low, 8 * high),
            "weight_byte": byte,
            "state_byte": byte,
        },
        "45 nm",
        "Horowitz, Computing's energy problem, ISSCC 2014; sums by this project",
        "derived",
        ("spike_hop",),
        f"estimate, arithmetic and {memory} of a 45 nm processor; no control, no instruction fetch, no host",
    )


_FIXED = {
    "loihi1-2018-presilicon": PriceTable(
        "loihi1-2018-presilicon",
        {
            "synaptic_operation": _exact(23.6),
            "weight_update": _exact(120.0),
            "driven_update": _exact(81.0),
            "idle_update": _exact(52.0),
            "spike": _exact(1.7),
            "spike_hop": Price(3.5, 3.0, 4.0),
        },
        "14 nm, 0.75 V",
        "Davies et al., Loihi, IEEE Micro 38(1) 2018, Table 2",
        "simulated",
        ("weight_byte", "state_byte"),
        "estimate, Loihi 1 constants (minima, simulated before silicon), lower bound; not Loihi 2",
    ),
    "horowitz-45nm-fp32": PriceTable(
        "horowitz-45nm-fp32",
        {"multiply_accumulate": _exact(4.6), "synaptic_operation": _exact(0.9), "graded_operation": _exact(4.6)},
        "45 nm",
        "Horowitz, ISSCC 2014, as most SNN papers use it: 4.6 pJ per MAC, 0.9 pJ per accumulation",
        "derived",
        ("spike_hop",),
        "estimate, float32 arithmetic alone, without the memory that dominates; for comparison with papers only",
    ),
}
TABLES = ("loihi1-2018-presilicon", "horowitz-45nm-int8", "horowitz-45nm-fp32")
