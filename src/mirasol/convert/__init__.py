"""Pretrained towers and language models -> a Mirasol checkpoint with their weights."""

from mirasol.convert.assemble import InitResult, init

__all__ = ["InitResult", "init"]
