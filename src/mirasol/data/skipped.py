"""Clips that could not be decoded in training: counted by cause and reported each epoch; too many end the run."""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any


class Skipped:
    """Count of the running epoch's clips that could not be decoded, whose items were blanks.

    Causes and messages are those of this rank; `count` is the sum over all ranks, so that they stop at the same step.

    Args:
        max_share: Largest share of an epoch's clips that may be skipped.
    """

    def __init__(self, max_share: float) -> None:
        self.max_share = max_share
        self.begin_epoch(0)

    def begin_epoch(self, num_clips: int) -> None:
        """Reset the counts for an epoch of this number of clips, over all ranks."""
        self.num_clips, self.count, self.unseen = num_clips, 0, 0
        self.causes: Counter[str] = Counter()
        self.first: dict[str, str] = {}

    def take(self, batches: Iterable[dict[str, Any]]) -> None:
        """Move `skipped` out of each batch, because it is no input of the model."""
        self.unseen = 0
        for batch in batches:
            for row_id, cause, message in batch.pop("skipped", ()):
                self.unseen += 1
                self.causes[cause] += 1
                self.first.setdefault(cause, f"{row_id}: {message}")

    def add(self, count: int) -> None:
        """Add the number of clips that all ranks skipped in one step."""
        self.count += count

    def refuse_many(self) -> None:
        """Raise ValueError once more than `max_share` of the epoch's clips are skipped."""
        if self.count > self.max_share * self.num_clips:
            raise ValueError(
                f"Expected at most {self.max_share:.2%} of the {self.num_clips} clips of an epoch to be unreadable "
                f"(data.max_skipped_share), found {self.count} in this one. {self.listed()} Mend or remove them "
                "(mirasol data check lists all), or raise the share."
            )

    def listed(self) -> str:
        """Return the first clip of each cause, with its message."""
        own = [f"{cause} ({number}), first {self.first[cause]}" for cause, number in self.causes.items()]
        return " ".join(own) or "Another process reports the causes."

    def as_logs(self) -> Mapping[str, float]:
        """Return the counts for the log: over all ranks, and by cause on this rank."""
        return {"skipped_clips": self.count} | {f"skipped_{cause}": n for cause, n in self.causes.items()}

    def __str__(self) -> str:
        return f"{self.count} of {self.num_clips} clips were skipped in this epoch. {self.listed()}"
