"""Features and text -> chunks on one grid of seconds: the grid, the processor, the collator."""

from mirasol.chunks.collation_mirasol import MirasolCollator
from mirasol.chunks.placement import ClipReport
from mirasol.chunks.processing_mirasol import MirasolProcessor
from mirasol.chunks.time_grid import ChunkPlan, TimeGrid

__all__ = ["ChunkPlan", "ClipReport", "MirasolCollator", "MirasolProcessor", "TimeGrid"]
