"""Programs that measure: ask one clip, evaluate a split, describe a file or checkpoint, write the demo report."""
