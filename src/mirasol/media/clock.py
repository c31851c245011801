"""A monotonic clock for files whose timestamps restart, jump or are damaged."""

from fractions import Fraction

INTERLEAVE_SECONDS = 10.0  # largest distance between the tracks of a file
RESTART_SECONDS = 0.5  # decoding times never run backwards; a restart (two recordings in one file) goes back further
# A longer jump of the clock is damage, not a pause.
LONGEST_GAP_SECONDS = 600.0


def seconds(stamp: int, base: Fraction) -> float:
    """`float(stamp * base)`, the same bits at a tenth of the time: fractions look for common divisors."""
    return stamp * base.numerator / base.denominator


class Clock:
    """Offsets for the timestamps of packets, so that each part of a file follows the one before it.

    All tracks of a part get the same offset, so that they stay synchronous.
    """

    def __init__(self) -> None:
        self.moves: list[float] = [0.0]  # seconds added, one for each part
        self.restarts = self.jumps = self.torn = 0
        self.end: float | None = None  # of all packets so far
        self._part: dict[int, int] = {}
        self._last: dict[int, float] = {}

    def place_packet(self, packet) -> tuple[float | None, float | None, float]:
        """Call `place` for a PyAV packet and write the result into its timestamps."""
        base = packet.time_base
        raw = tuple(None if stamp is None else seconds(stamp, base) for stamp in (packet.pts, packet.dts))
        pts, dts, end = self.place(packet.stream_index, raw[0], raw[1], seconds(packet.duration or 0, base))
        if (pts, dts) != raw:
            packet.pts, packet.dts = (None if time is None else round(time / base) for time in (pts, dts))
        return pts, dts, end

    def place(
        self, track: int, pts: float | None, dts: float | None, duration: float
    ) -> tuple[float | None, float | None, float]:
        """Return the packet's presentation and decoding seconds and its end (nan where it has no time)."""
        if pts is not None and dts is not None and abs(pts - dts) > LONGEST_GAP_SECONDS:  # one of them is damaged
            self.torn += 1
            is_pts = self.end is None or self._distance(track, pts) <= self._distance(track, dts)
            pts = dts = pts if is_pts else dts
        stamp = pts if dts is None else dts
        if stamp is None:
            return None, None, float("nan")
        last, part = self._last.get(track), self._part.setdefault(track, 0)
        is_restart = dts is not None and last is not None and stamp < last - RESTART_SECONDS
        is_jump = self.end is not None and stamp + self.moves[part] > self.end + LONGEST_GAP_SECONDS
        if is_restart or is_jump:
            assert self.end is not None, "a restart or a jump follows an earlier packet"
            begin = stamp if pts is None else pts
            # Another track may have met the same break before this one.
            later = range(part + 1, len(self.moves))
            known = [k for k in later if abs(begin + self.moves[k] - self.end) < INTERLEAVE_SECONDS]
            if known:
                part = known[-1]
            else:
                self.moves.append(self.end - begin)
                part = len(self.moves) - 1
                self.restarts, self.jumps = self.restarts + is_restart, self.jumps + (not is_restart)
            self._part[track] = part
        if dts is not None:  # presentation times are not monotonic
            self._last[track] = dts
        move = self.moves[part]
        begin = (stamp if pts is None else pts) + move
        end = begin + (duration if 0 < duration <= LONGEST_GAP_SECONDS else 0.0)
        self.end = end if self.end is None else max(self.end, end)
        return None if pts is None else pts + move, None if dts is None else dts + move, end

    def _distance(self, track: int, stamp: float) -> float:
        return abs(stamp + self.moves[self._part.get(track, 0)] - (self.end or 0.0))

    def warnings(self) -> list[str]:
        """Return a sentence for each kind of repair."""
        notes = []
        if self.torn:
            notes.append(
                f"{self.torn} packets are to be decoded and shown more than {LONGEST_GAP_SECONDS:.0f} s apart, "
                "as in a damaged file: the stamp that is nearer to the packets before is used."
            )
        if self.restarts:
            notes.append(
                f"The file's clock restarts ({self.restarts} in all), as where recordings were joined: each part "
                "follows the one before it."
            )
        if self.jumps:
            notes.append(
                f"The file's clock jumps ahead by more than {LONGEST_GAP_SECONDS:.0f} s ({self.jumps} in all), as "
                "in a damaged file: what comes after a jump follows what comes before it."
            )
        return notes
