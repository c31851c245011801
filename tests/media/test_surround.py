"""Sound of many channels is read as the mean of its own channels, never of memory behind them."""

import io

import av
import numpy as np
import pytest

from mirasol.media import read_clip


@pytest.mark.parametrize(("layout", "channels"), [("stereo", 2), ("5.1", 6), ("7.1", 8)])
def test_planar_sound_is_the_mean_of_its_channels(layout, channels):
    """PyAV's own array of a 7.1 frame has nine planes, and reading the ninth ends the process."""
    file, rate = io.BytesIO(), 48_000
    with av.open(file, "w", format="matroska") as container:
        stream = container.add_stream("aac", rate=rate, layout=layout)
        level = np.full((1, rate * channels), 0.25, np.float32)
        frame = av.AudioFrame.from_ndarray(level, format="flt", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in (*stream.encode(frame), *stream.encode()):
            container.mux(packet)
    waveform = read_clip(file.getvalue()).waveform
    assert np.abs(waveform[4_000:12_000]).mean() == pytest.approx(0.25, abs=0.01)  # AAC is lossy
