"""From a task's rows to batches: clips decoded once, augmented by seed, epoch and id, cut into chunks."""

from mirasol.data.augment import AugmentConfig
from mirasol.data.cache import ClipCache
from mirasol.data.dataset import ClipDataset, ClipMixture

__all__ = ["AugmentConfig", "ClipCache", "ClipDataset", "ClipMixture"]
