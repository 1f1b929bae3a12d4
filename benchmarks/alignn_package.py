"""stub"""
from typing import Any
def is_installed() -> bool: return False
def network(model): raise NotImplementedError
def inputs(model, graph): raise NotImplementedError
