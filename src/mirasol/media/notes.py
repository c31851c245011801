"""Sentences about faults of media: the same for a file that is read and for a source that plays."""

from dataclasses import dataclass

NO_FRAME = "The picture track holds no frame that can be decoded: read as if there were none."
NO_SAMPLE = "The sound track holds no sample that can be decoded: read as if there were none."
SILENT = "has sound, but it is silent: no sample is above -70 dB. Check its recording or its sound tracks."


@dataclass
class Faults:
    """Numbers of packets that cannot be used whole."""

    incomplete: int = 0
    bad_sound: int = 0

    def warnings(self) -> list[str]:
        """Return a sentence for each kind."""
        notes = []
        if self.incomplete:
            notes.append(
                f"{self.incomplete} packets are incomplete, as where a file is cut off: what they hold is used."
            )
        if self.bad_sound:
            notes.append(f"{self.bad_sound} sound packets could not be decoded and were left out.")
        return notes


def compare_length(stated: float | None, found: float, start: float = 0.0) -> list[str]:
    """Compare the seconds that a file's header states with those found, both counted from `start` on."""
    if stated is None:
        return []
    if found > 1.5 * stated + 1:
        return [
            f"The file states {stated + start:.2f} s, but its frames and sound are stamped up to {found + start:.2f} "
            "s, as in a damaged file: long pauses in it may be false."
        ]
    if stated - found > max(0.5, 0.02 * found):
        return [
            f"The file states {stated + start:.2f} s, found {found + start:.2f} s, as if cut off: those are used. "
            "Copy or download it again for the rest."
        ]
    return []
