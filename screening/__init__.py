"""Screen a million candidate crystals: read, graph, predict, store, query.

The names here load on first use, so that commands which need none of the native core start at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from screening.crystals.batch import Crystals as Crystals
    from screening.crystals.convert import crystal_from_ase as crystal_from_ase
    from screening.crystals.convert import crystal_from_pymatgen as crystal_from_pymatgen
    from screening.crystals.convert import crystal_to_ase as crystal_to_ase
    from screening.crystals.convert import crystal_to_pymatgen as crystal_to_pymatgen
    from screening.crystals.crystal import Crystal as Crystal
    from screening.crystals.crystal import Reason as Reason
    from screening.crystals.crystal import Rejection as Rejection
    from screening.crystals.pack import pack as pack
    from screening.crystals.packed import PackedCrystals as PackedCrystals
    from screening.crystals.read import read as read
    from screening.crystals.read import read_batches as read_batches
    from screening.crystals.validate import CrystalLimits as CrystalLimits
    from screening.crystals.write import write as write
    from screening.graphs import Graphs as Graphs
    from screening.graphs import Neighbors as Neighbors
    from screening.graphs import graph_batches as graph_batches
    from screening.graphs import neighbor_list as neighbor_list
    from screening.graphs import pack_graphs as pack_graphs
    from screening.inference import predict as predict
    from screening.ops.core import set_threads as set_threads
    from screening.ops.edges import EdgeArrays as EdgeArrays
    from screening.predictions import Predictions as Predictions
    from screening.predictions import Target as Target
    from screening.pretrained.shipped import load_model as load_model
    from screening.query.query import Query as Query
    from screening.relaxation.calculator import Calculator as Calculator
    from screening.relaxation.potential import Potential as Potential
    from screening.relaxation.relax import relax as relax
    from screening.relaxation_limits import RelaxationLimits as RelaxationLimits
    from screening.report.write import write_report as write_report
    from screening.runs.config import ScreenConfig as ScreenConfig
    from screening.runs.screen import screen as screen
    from screening.store.merge import merge as merge
    from screening.store.read import Results as Results

_HOME = {
    "Calculator": "screening.relaxation.calculator",
    "Crystal": "screening.crystals.crystal",
    "CrystalLimits": "screening.crystals.validate",
    "Crystals": "screening.crystals.batch",
    "EdgeArrays": "screening.ops.edges",
    "Graphs": "screening.graphs",
    "Neighbors": "screening.graphs",
    "PackedCrystals": "screening.crystals.packed",
    "Potential": "screening.relaxation.potential",
    "Predictions": "screening.predictions",
    "Query": "screening.query.query",
    "Reason": "screening.crystals.crystal",
    "Rejection": "screening.crystals.crystal",
    "RelaxationLimits": "screening.relaxation_limits",
    "Results": "screening.store.read",
    "ScreenConfig": "screening.runs.config",
    "Target": "screening.predictions",
    "crystal_from_ase": "screening.crystals.convert",
    "crystal_from_pymatgen": "screening.crystals.convert",
    "crystal_to_ase": "screening.crystals.convert",
    "crystal_to_pymatgen": "screening.crystals.convert",
    "graph_batches": "screening.graphs",
    "load_model": "screening.pretrained.shipped",
    "merge": "screening.store.merge",
    "neighbor_list": "screening.graphs",
    "pack": "screening.crystals.pack",
    "pack_graphs": "screening.graphs",
    "predict": "screening.inference",
    "read": "screening.crystals.read",
    "read_batches": "screening.crystals.read",
    "relax": "screening.relaxation.relax",
    "screen": "screening.runs.screen",
    "set_threads": "screening.ops.core",
    "write": "screening.crystals.write",
    "write_report": "screening.report.write",
}

__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
