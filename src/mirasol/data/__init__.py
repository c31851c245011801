"""From a task's rows to batches: decoded once, varied by (seed, epoch, sample id), cut into chunks, with questions."""

from mirasol.data.augment import AugmentConfig
from mirasol.data.cache import ClipCache
from mirasol.data.dataset import ClipDataset, ClipMixture

__all__ = ["AugmentConfig", "ClipCache", "ClipDataset", "ClipMixture"]
