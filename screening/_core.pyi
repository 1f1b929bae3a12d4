from typing import Any

def neighbor_count(
    positions: Any,
    lattice: Any,
    pbc: Any,
    atom_offsets: Any,
    cutoff: float,
    max_neighbors: int,
    whole_shells: bool,
    shell_tolerance: float,
    edge_count: Any,
    row_cut: Any,
    threads: int,
    stream: int,
) -> None: ...
def neighbor_fill(
    positions: Any,
    lattice: Any,
    pbc: Any,
    atom_offsets: Any,
    cutoff: float,
    edge_offsets: Any,
    row_cut: Any,
    edge_source: Any,
    edge_shift: Any,
    edge_vector: Any,
    edge_distance: Any,
    threads: int,
    stream: int,
) -> None: ...
def unusable_crystal(positions: Any, lattice: Any, pbc: Any, atom_offsets: Any) -> str: ...
def expand_sites(
    fractional: Any, rotations: Any, translations: Any, lattice: Any, tolerance: float
) -> tuple[Any, Any]: ...
def site_coordinates(texts: list[str], limit: float) -> tuple[Any, int, bool]: ...
def cell_lattice(texts: list[str | None], limit: float) -> tuple[list[float], Any, int, bool]: ...
def scan_rows(
    text: bytes,
    starts: Any,
    row_offsets: Any,
    targets: Any,
    exact: bool,
    numbers: Any,
    values: Any,
    faults: Any,
) -> None: ...
def scan_lines(
    text: bytes,
    begins: Any,
    ends: Any,
    literals: bytes,
    literal_offsets: Any,
    kinds: Any,
    fits: Any,
    numbers: Any,
    spans: Any,
) -> None: ...
def block(bytes: int) -> Any: ...
def simd_levels() -> list[str]: ...
def simd_level() -> str: ...
def set_simd_level(name: str) -> None: ...
def cuda_compiled() -> bool: ...
def cuda_device_count() -> int: ...
